/**
 * Who may do what: each operation of RBS's programs, in one table. Servers check it before they read a request, whatever
 * the protocol, and refuse operations that are not listed.
 */
import { grpcOperation, type Operation } from "../contract/operations.ts";
import { AccessDenied } from "./access_denied.ts";
import { type Identity, identityName } from "./spiffe.ts";

/** Who may do something. */
export type Rule =
  /** Users, for themselves: {@link actingUser} refuses a request that names another user. */
  | "user"
  /** Only the user whose session the agent serves; not other agents or the orchestrator. */
  | "owner"
  /** The orchestrator. */
  | "orchestrator"
  /** Operators, whoever owns the session. */
  | "operator"
  /** Anybody, known or not: the content of the request decides. */
  | "anyone"
  /** A user, an agent or an operator, for its own certificate. */
  | "holder";

/** The table. */
export const RULES: Readonly<Record<Operation, Rule>> = {
  "session.get": "user",
  "session.heartbeat": "user",
  "session.release": "user",
  "session.list": "user",
  "session.list-any": "operator",
  "session.end-any": "operator",

  "certificate.issue": "anyone",
  "certificate.renew": "holder",

  "agent.supervise": "orchestrator",
  "command.run": "owner",
  "bazel-server.call": "owner",
  "workspace.open": "owner",
  "workspace.apply": "owner",
  "workspace.fetch": "owner",
};

/** Whom a rule admits, for a refusal. */
const FOR: Readonly<Record<Rule, string>> = {
  user: "users",
  owner: "the owner of the session",
  orchestrator: "the orchestrator",
  operator: "operators",
  anyone: "everybody",
  holder: "who has a certificate from it",
};

/** The rule of a gRPC method; undefined if there is none and nobody may call it. @param path "/package.Service/Method" */
export function ruleOf(path: string): Rule | undefined {
  const operation = grpcOperation(path);
  return operation && RULES[operation];
}

/** What a server knows of a caller. */
export interface Caller {
  /** The caller's proven identity; undefined if it is unknown here. */
  readonly identity?: Identity;
  /** Why the caller is unknown: a clause. @default it shows no certificate */
  readonly stranger?: string;
}

/**
 * Admits the caller of a gRPC method as {@link permit} does. Refuses a method without an operation.
 *
 * @param path "/package.Service/Method"
 */
export function admit(path: string, caller: Caller, owner?: string): void {
  const operation = grpcOperation(path);
  if (operation === undefined) throw new AccessDenied("forbidden", `Nobody may call ${path}.`);
  permit(operation, caller, owner);
}

/**
 * Admits a caller, or throws an {@link AccessDenied}: "unauthenticated" for an unknown caller, "forbidden" for one that
 * may not do this.
 *
 * @param owner At an agent: the user whose session it serves.
 */
export function permit(operation: Operation, caller: Caller, owner?: string): void {
  const rule = RULES[operation];
  if (rule === "anyone") return;
  const { identity, stranger = "it shows no certificate" } = caller;
  if (!identity) {
    throw new AccessDenied(
      "unauthenticated",
      `The caller is not known here, since ${stranger}: run \`jbazel login\`, or use the orchestrator's own RBS_STATE_DIR.`,
    );
  }
  if (!isAllowed(rule, identity, owner)) {
    throw new AccessDenied("forbidden", `${nameOf(identity)} may not do ${operation}, which is for ${FOR[rule]}.`);
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
    case "operator":
      return identity.kind === "operator";
    case "holder":
      return identity.kind !== "orchestrator";
    case "anyone":
      return true;
  }
}

/** The user for whom something is done. Throws an {@link AccessDenied} if the request names another one. */
export function actingUser({ identity }: Caller, requested: string): string {
  if (identity?.kind !== "user") throw new AccessDenied("forbidden", "Only users may do this.");
  if (requested !== "" && requested !== identity.userId) {
    throw new AccessDenied(
      "forbidden",
      `${nameOf(identity)} may not act for user ${JSON.stringify(requested.slice(0, 200))}: leave user_id empty.`,
    );
  }
  return identity.userId;
}

/** For the beginning of a sentence. */
function nameOf(identity: Identity): string {
  const name = identityName(identity);
  return name[0].toUpperCase() + name.slice(1);
}
