/**
 * What callers may ask of RBS's programs, by names that belong to no protocol. Who may do each stands in
 * proto/identity/access_rules.ts, so that a gRPC method and an HTTP route that do the same have the same rule.
 */
export type Operation =
  // At the orchestrator.
  | "session.get"
  | "session.heartbeat"
  | "session.release"
  | "session.list"
  | "session.list-any"
  | "session.end-any"
  | "certificate.issue"
  | "certificate.renew"
  // At an agent.
  | "agent.supervise"
  | "command.run"
  | "bazel-server.call"
  | "workspace.open"
  | "workspace.apply"
  | "workspace.fetch";

/** What each gRPC method does, by path; `/*` stands for all methods of a service that is not ours. */
export const GRPC_OPERATIONS: Readonly<Record<string, Operation>> = {
  "/rbs.v1.Orchestrator/GetServer": "session.get",
  "/rbs.v1.Orchestrator/GetServerStream": "session.get",
  "/rbs.v1.Orchestrator/Heartbeat": "session.heartbeat",
  "/rbs.v1.Orchestrator/ReleaseServer": "session.release",
  "/rbs.v1.Orchestrator/ListSessions": "session.list",

  "/rbs.v1.Operator/ListSessions": "session.list-any",
  "/rbs.v1.Operator/EndSession": "session.end-any",

  "/rbs.v1.Identity/IssueCertificate": "certificate.issue",
  "/rbs.v1.Identity/RenewCertificate": "certificate.renew",

  "/rbs.v1.Agent/Supervise": "agent.supervise",
  "/rbs.v1.Agent/ExecuteCommand": "command.run",

  "/rbs.v1.Command/Execute": "command.run",
  "/rbs.v1.Workspace/Open": "workspace.open",
  "/rbs.v1.Workspace/Apply": "workspace.apply",
  "/rbs.v1.Workspace/Fetch": "workspace.fetch",
  "/command_server.CommandServer/*": "bazel-server.call",
};

/** What a gRPC method does; undefined: nothing that anybody may ask for. @param path "/package.Service/Method" */
export function grpcOperation(path: string): Operation | undefined {
  return own(path) ?? own(path.replace(/[^/]*$/, "*"));
}

function own(path: string): Operation | undefined {
  return Object.hasOwn(GRPC_OPERATIONS, path) ? GRPC_OPERATIONS[path] : undefined;
}
