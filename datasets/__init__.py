"""Images, masks, groups, and the reading, checking and sampling of them."""
