/**
 * Who may call what: each method of each RBS service, in one table. Servers check it before they read a request, and
 * refuse methods that are not listed.
 */
import { AccessDenied } from "./access_denied.ts";
import type { Identity } from "./spiffe.ts";

/** Who may call a method. */
export type Rule =
  /** Users, for themselves: {@link actingUser} refuses a request that names another user. */
  | "user"
  /** Only the user whose session the agent serves; not other agents or the orchestrator. */
  | "owner"
  /** The orchestrator. */
  | "orchestrator"
  /** Anybody, known or not: the content of the request decides. */
  | "anyone"
  /** A user or an agent, for its own certificate. */
  | "holder";

/** By path; `/*` stands for all methods of a foreign service. */
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

/** The rule of a method; undefined if there is none and nobody may call it. */
export function ruleOf(path: string): Rule | undefined {
  return Object.hasOwn(RULES, path) ? RULES[path] : RULES[path.replace(/[^/]*$/, "*")];
}

/** What a server knows of a caller. */
export interface Caller {
  /** The caller's proven identity; undefined if it is unknown here. */
  readonly identity?: Identity;
  /** Why the caller is unknown: a clause. @default it shows no certificate */
  readonly stranger?: string;
}

/**
 * Admits a caller, or throws an {@link AccessDenied}: "unauthenticated" for an unknown caller, "forbidden" for one that
 * may not call this.
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

/** The user who makes a call. Throws an {@link AccessDenied} if the request names another one. */
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
