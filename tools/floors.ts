/**
 * The rooms of the house, from the ground up. A file imports from its own room and from floors below it, never from above
 * and never from another room of its own floor; `deno task check` sees to it.
 *
 * Each line is a floor, and names its rooms: folders, or files. A file belongs to the longest name that fits.
 */
export const FLOORS: readonly (readonly string[])[] = [
  // What all programs have in common.
  ["proto/base"],
  ["proto/contract"],
  ["proto/bazel", "proto/tree", "proto/identity"],
  ["proto/transport/admission.ts", "proto/transport/transport.ts"],
  ["proto/transport/listener.ts", "proto/transport/http2"],
  ["proto/transport/tls", "proto/transport/tcp_listener.ts"],
  ["proto/transport/grpc"],
  ["proto/transport/rpc"],
  ["proto/enrolment"],

  // The agent: from what it is made of to what the proxy calls.
  ["agent/log.ts"],
  ["agent/files"],
  ["agent/namespace"],
  ["agent/bazel"],
  ["agent/workspace", "agent/outputs"],
  ["agent/arguments.ts"],
  ["agent/control"],
  ["agent/commands", "agent/self_check.ts"],
  ["agent/main.ts"],

  // The orchestrator: from what it remembers to what it is asked.
  ["orchestrator/store"],
  ["orchestrator/peers", "orchestrator/identity", "orchestrator/compute"],
  ["orchestrator/agents"],
  ["orchestrator/sessions"],
  ["orchestrator/api"],
  ["orchestrator/flags"],
  ["orchestrator/state_directory.ts", "orchestrator/trusted_paths.ts", "orchestrator/flags.ts"],
  ["orchestrator/install", "orchestrator/admin.ts"],
  ["orchestrator/main.ts"],

  // The proxy: from its session to the Bazel client.
  ["proxy/log.ts"],
  ["proxy/session"],
  ["proxy/arguments"],
  ["proxy/answers"],
  ["proxy/workspace"],
  ["proxy/outputs"],
  ["proxy/commands"],
  ["proxy/client"],
  ["proxy/lifetime.ts"],
  ["proxy/main.ts"],
  ["proxy/jbazel"],
];

/** Programs know of each other only what proto/ says. */
export const PROGRAMS = ["agent", "orchestrator", "proxy"];
