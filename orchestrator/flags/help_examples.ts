/** What `orchestrator --help` prints after the options. */
export const HELP_EXAMPLES = `
Examples:
  orchestrator --local-mode
      Serves this machine on localhost:50051. Agents are local processes. Sessions, keys and build outputs are kept in
      $XDG_STATE_HOME/rbs, or ~/.local/state/rbs.

  orchestrator --local-mode --port=50052
      A second orchestrator for the same sessions: each takes over when the other is gone. Clients need
      RBS_ORCHESTRATOR_ADDR=localhost:50051,localhost:50052.

  orchestrator --local-mode --port=0 --state-dir=/tmp/rbs-trial
      An independent one, on a free port (which it prints) and with its own state. Its clients need
      RBS_ORCHESTRATOR_ADDR=localhost:PORT and RBS_STATE_DIR=/tmp/rbs-trial.

  orchestrator --local-mode --storage-root=/mnt/fast/rbs --idle-timeout=600
      Keeps Bazel's output bases on another disk. Ends servers that were idle for ten minutes.

  orchestrator --local-mode --max-agents=8 --max-agents-per-user=2 --idle-timeout=1800
      Shares a machine that has memory for eight Bazel servers. The ninth workspace waits until a server ends, and so
      does a user's third. Servers that were idle for half an hour end and make room.

  orchestrator --local-mode --warm=2
      Starts two agents ahead of time. The next two workspaces get theirs within 50 ms; then the pool is refilled.

  orchestrator --local-mode --workspace=synced
      Agents on this machine behave as if they were on another. Each sees a copy of its workspace and no other files of
      users. The copy is updated over the connection before each command; outputs are sent back after it.

  orchestrator --local-mode --workspace=synced --listen=10.0.0.5
      Also serves other machines. Laptops set RBS_ORCHESTRATOR_ADDR=10.0.0.5:50051. Users are enrolled with
      \`orchestrator enrol USER\` here and \`jbazel login\` there.

  orchestrator --local-mode --workspace=synced --agent-user=builder --storage-root=/var/lib/rbs-storage
      As root: agents and all builds run as the user builder, who can read neither keys nor store.

  orchestrator --local-mode --ca-cert=ca.crt --ca-key=ca.key
      Issues certificates from your own authority instead of one that it creates.

  orchestrator --local-mode --store=spanner:projects/p/instances/i/databases/rbs
      Keeps the sessions in a Cloud Spanner database. The database must exist; tables are created. It authenticates with
      the key that GOOGLE_APPLICATION_CREDENTIALS names. SPANNER_EMULATOR_HOST=localhost:9010 selects an emulator, which
      needs no key.

  orchestrator install --workspace=synced
      Starts one in the background, which outlives this terminal. \`orchestrator status\` shows whether it runs,
      \`orchestrator stop\` ends it: see \`orchestrator install --help\`.

  orchestrator enrol ann --address=10.0.0.5:50051
      Prints a token for the user ann, who passes it to \`jbazel login\`.

  orchestrator enrol --operator olga --address=10.0.0.5:50051
      The same for an operator, who sees the sessions of all users by \`jbazel status --all-users\`.

  orchestrator revoke ann
      Locks ann out. With --undo, lets ann in again. Both work while an orchestrator runs.

It prints one line on standard output when it is ready, and logs to standard error. SIGTERM or Ctrl-C ends it. Its agents
end too, unless another orchestrator on the same store takes them over. If it is killed, its agents continue; another
orchestrator, or the next start, takes them over.

Exit codes: 0 ended as requested, 1 could not start or continue, 2 wrong usage.`;
