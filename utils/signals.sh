# Sourced by gco.sh and by the job script of sub_by_id.sh: a child that signals reach.
#
# run_child <command> ...
#   Runs it and returns its status. SIGTERM and SIGUSR1 (Slurm's warning of the time limit) are
#   passed on to it as SIGTERM, which torchrun hands on to its processes, too; it saves what it has
#   and ends with STOPPED. Ctrl-C reaches it without help. In either case stop_signal is set.

STOPPED=75 # EX_TEMPFAIL: all is saved, the same command goes on
WAITING=3 # questions are open: the same command goes on when they are answered
stop_signal="" child="" woken="" passed_on=""

ask_to_stop() { # signal
    stop_signal="$1" woken=1
    pass_on
}

# Once: a group or Slurm may signal a process and its parent alike, and a second signal is an order
# to give up what is not saved.
pass_on() {
    case "$stop_signal" in TERM | USR1) ;; *) return ;; esac
    if [ -n "$child" ] && [ -z "$passed_on" ]; then
        passed_on=1
        kill -s TERM "$child" 2> /dev/null || true
    fi
}
trap 'ask_to_stop TERM' TERM
trap 'ask_to_stop USR1' USR1
trap 'ask_to_stop INT' INT

run_child() {
    local status
    # In the background, since bash runs no trap before its foreground child has ended; but a
    # background child ignores Ctrl-C unless it is told not to.
    (trap - INT; exec "$@") &
    child=$!
    pass_on # what came before child was known
    while :; do
        woken=""
        wait "$child" && status=0 || status=$?
        # A signal ends wait; the child's own status comes later.
        if [ -z "$woken" ] && [ -z "$(jobs -pr)" ]; then break; fi
    done
    child=""
    return "$status"
}
