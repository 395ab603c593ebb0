/**
 * Who may do what: each operation of RBS's programs, in one table. Servers ask it before they look at a request, whatever
 * protocol the request came by, and refuse what does not stand here.
 */
import { grpcOperation, type Operation } from "../contract/operations.ts";
import { AccessDenied } from "./access_denied.ts";
import { type Identity, identityName } from "./spiffe.ts";

/** Who may do something. */
export type Rule =
  /** Users, for themselves: a request that names another user is refused by {@link actingUser}. */
  | "user"
  /** The user whose session the agent serves; nobody else, other agents and the orchestrator included. */
  | "owner"
  /** The orchestrator. */
  | "orchestrator"
  /** Operators, whosever session it is about. */
  | "operator"
  /** Anybody, known or not: what the request shows decides. */
  | "anyone"
  /** Who has a certificate that runs out: a user, an agent or an operator, for itself. */
  | "holder";

/** See the file's head. */
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

/** Whom a rule is for, in a refusal. */
const FOR: Readonly<Record<Rule, string>> = {
  user: "users",
  owner: "the owner of the session",
  orchestrator: "the orchestrator",
  operator: "operators",
  anyone: "everybody",
  holder: "who has a certificate from it",
};

/** The rule of a gRPC method; undefined: there is none, and nobody may call it. @param path "/package.Service/Method" */
export function ruleOf(path: string): Rule | undefined {
  const operation = grpcOperation(path);
  return operation && RULES[operation];
}

/** What a server knows of a caller. */
export interface Caller {
  /** Who the caller has proved to be; undefined: nobody that is known here. */
  readonly identity?: Identity;
  /** Why the caller is nobody: a clause. @default it shows no certificate */
  readonly stranger?: string;
}

/**
 * Lets the caller of a gRPC method pass as {@link permit} does; refuses whoever calls a method without an operation.
 *
 * @param path "/package.Service/Method"
 */
export function admit(path: string, caller: Caller, owner?: string): void {
  const operation = grpcOperation(path);
  if (operation === undefined) throw new AccessDenied("forbidden", `Nobody may call ${path}.`);
  permit(operation, caller, owner);
}

/**
 * Lets a caller pass, or throws an {@link AccessDenied}: "unauthenticated" for one that is nobody known, "forbidden" for
 * one that may not do this.
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

/** The user for whom something is done. Throws an {@link AccessDenied} when the request names another one. */
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
