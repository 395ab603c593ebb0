/**
 * Who may call what: each method of each service of RBS, in one table. Servers ask it before they look at a request, and
 * refuse a method that does not stand here.
 */
import { AccessDenied } from "./access_denied.ts";
import type { Identity } from "./spiffe.ts";

/** Who may call a method. */
export type Rule =
  /** Users, for themselves: a request that names another user is refused by {@link actingUser}. */
  | "user"
  /** The user whose session the agent serves; nobody else, other agents and the orchestrator included. */
  | "owner"
  /** The orchestrator. */
  | "orchestrator"
  /** Anybody, known or not: what the request shows decides. */
  | "anyone"
  /** Who has a certificate that runs out: a user or an agent, for itself. */
  | "holder";

/** By path; `/*` stands for all methods of a service that is not ours. */
export const RULES: Readonly<Record<string, Rule>> = {
  "/rbs.v1.Orchestrator/GetServer": "user",
  "/rbs.v1.Orchestrator/GetServerStream": "user",
  "/rbs.v1.Orchestrator/Heartbeat": "user",
  "/rbs.v1.Orchestrator/ReleaseServer": "user",
  "/rbs.v1.Orchestrator/ListSessions": "user",

  "/rbs.v1.Identity/IssueCertificate": "anyone",
  "/rbs.v1.Identity/RenewCertificate": "holder",

  "/rbs.v1.Agent/Supervise": "orchestrator",
  "/rbs.v1.Agent/ExecuteCommand": "owner",

  "/rbs.v1.Command/Execute": "owner",
  "/rbs.v1.Workspace/Open": "owner",
  "/rbs.v1.Workspace/Apply": "owner",
  "/rbs.v1.Workspace/Fetch": "owner",
  "/command_server.CommandServer/*": "owner",
};

/** The rule of a method; undefined: there is none, and nobody may call it. */
export function ruleOf(path: string): Rule | undefined {
  return Object.hasOwn(RULES, path) ? RULES[path] : RULES[path.replace(/[^/]*$/, "*")];
}

/** What a server knows of a caller. */
export interface Caller {
  /** Who the caller has proved to be; undefined: nobody that is known here. */
  readonly identity?: Identity;
  /** Why the caller is nobody: a clause. @default it shows no certificate */
  readonly stranger?: string;
}

/**
 * Lets a caller pass, or throws an {@link AccessDenied}: "unauthenticated" for one that is nobody known, "forbidden" for
 * one that may not call this.
 *
 * @param owner At an agent: the user whose session it serves.
 */
export function admit(path: string, caller: Caller, owner?: string): void {
  const rule = ruleOf(path);
  if (rule === undefined) throw new AccessDenied("forbidden", `Nobody may call ${path}.`);
  if (rule === "anyone") return;
  const { identity, stranger = "it shows no certificate" } = caller;
  if (!identity) {
    throw new AccessDenied(
      "unauthenticated",
      `The caller is not known here, since ${stranger}: run \`jbazel login\`, or use the orchestrator's own RBS_STATE_DIR.`,
    );
  }
  if (!isAllowed(rule, identity, owner)) {
    throw new AccessDenied("forbidden", `${nameOf(identity)} may not call ${path}.`);
  }
}

function isAllowed(rule: Rule, identity: Identity, owner: string | undefined): boolean {
  switch (rule) {
    case "user":
      return identity.kind === "user";
    case "owner":
      return identity.kind === "user" && owner !== undefined && identity.userId === owner;
    case "orchestrator":
      return identity.kind === "orchestrator";
    case "holder":
      return identity.kind !== "orchestrator";
    case "anyone":
      return true;
  }
}

/** The user that a call is made by. Throws an {@link AccessDenied} when the request names another one. */
export function actingUser({ identity }: Caller, requested: string): string {
  if (identity?.kind !== "user") throw new AccessDenied("forbidden", "Only users may call this.");
  if (requested !== "" && requested !== identity.userId) {
    throw new AccessDenied(
      "forbidden",
      `${nameOf(identity)} may not act for user ${JSON.stringify(requested.slice(0, 200))}: leave user_id empty.`,
    );
  }
  return identity.userId;
}

/** For messages. */
function nameOf(identity: Identity): string {
  switch (identity.kind) {
    case "user":
      return `User ${JSON.stringify(identity.userId)}`;
    case "agent":
      return `The agent of session ${identity.agentId}`;
    case "orchestrator":
      return "The orchestrator";
  }
}
