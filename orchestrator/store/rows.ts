/** Converts sessions, leases and warm agents to and from rows, equally for each store. */
import type { Session, SessionFields, SessionStatus } from "./session.ts";
import type { OrchestratorLease } from "./lease_store.ts";
import type { SessionChange } from "./session_store.ts";
import type { WarmAgent, WarmChange } from "./warm_agent_store.ts";

/** A row of ServerSessions, or part of one: values by column. Booleans are 0 or 1, lists are JSON. */
export type Row = Record<string, string | number>;

const COLUMNS: Readonly<Record<keyof SessionFields, string>> = {
  sessionId: "SessionId",
  sourcePath: "SourcePath",
  region: "Region",
  startupOptions: "StartupOptions",
  startupOptionsHash: "StartupOptionsHash",
  computeService: "ComputeService",
  handle: "ProcessId",
  host: "PodIP",
  agentPort: "AgentPort",
  commandPort: "CommandPort",
  accessToken: "AccessToken",
  // The column is older than agents' certificates.
  agentId: "ControlToken",
  warnings: "Warnings",
  samePaths: "SamePaths",
  synced: "Synced",
  missingInstallBase: "MissingInstallBase",
  failure: "Failure",
  failureTransient: "FailureTransient",
  holder: "Holder",
  createdAt: "CreatedAt",
  lastHeartbeat: "LastHeartbeat",
  adoptedBy: "AdoptedBy",
};
/** A column that must hold something, from when storage was not the compute service's own affair. Nobody reads it. */
const UNUSED = { StorageDirectory: "" };
const FIELDS = Object.keys(COLUMNS) as (keyof SessionFields)[];

/** All columns of ServerSessions; the first three are its key. */
export const ALL_COLUMNS: readonly string[] = [
  "UserId",
  "RepoHash",
  "ServerId",
  "Status",
  "Epoch",
  "Term",
  ...FIELDS.map((field) => COLUMNS[field]),
];

/** The columns that a change sets, with their values. */
export function changedColumns(change: SessionChange): Row {
  return Object.fromEntries(
    FIELDS.filter((field) => change[field] !== undefined).map((field) => [COLUMNS[field], toColumn(change[field]!)]),
  );
}

/** The same for the event "start". Throws a TypeError, for a bug, if a field is missing. */
export function startColumns(change: SessionChange): Row {
  const missing = FIELDS.filter((field) => change[field] === undefined);
  if (missing.length > 0) throw new TypeError(`a session starts without ${missing.join(", ")}`);
  return { ...changedColumns(change), ...UNUSED };
}

/** The session in a complete row. */
export function toSession(row: Row): Session {
  const fields = Object.fromEntries(FIELDS.map((field) => [field, row[COLUMNS[field]]]));
  return {
    ...fields as unknown as SessionFields,
    userId: row.UserId as string,
    repoHash: row.RepoHash as string,
    serverId: row.ServerId as string,
    status: row.Status as SessionStatus,
    epoch: row.Epoch as number,
    term: row.Term as number,
    startupOptions: JSON.parse(row.StartupOptions as string),
    warnings: JSON.parse(row.Warnings as string),
    samePaths: row.SamePaths === 1,
    synced: row.Synced === 1,
    failureTransient: row.FailureTransient === 1,
  };
}

/** The lease in a complete row of Orchestrators. */
export function toLease(row: Row): OrchestratorLease {
  return {
    id: row.Id as string,
    address: row.Address as string,
    durationMs: row.DurationMs as number,
    expiresAt: row.ExpiresAt as number,
  };
}

function toColumn(value: SessionFields[keyof SessionFields]): string | number {
  if (typeof value === "boolean") return value ? 1 : 0;
  return Array.isArray(value) ? JSON.stringify(value) : value;
}

/** The columns of {@link WarmAgent}'s fields. */
const WARM: Readonly<Record<keyof WarmAgent, string>> = {
  id: "Id",
  owner: "Owner",
  computeService: "ComputeService",
  handle: "ProcessId",
  host: "PodIP",
  agentPort: "AgentPort",
  commandPort: "CommandPort",
  agentId: "ControlToken",
  createdAt: "CreatedAt",
};

/** All columns of WarmAgents; the first is its key. */
export const WARM_COLUMNS: readonly string[] = Object.values(WARM);

/** The columns of a new warm agent, with their values. */
export function newWarmColumns(agent: WarmAgent): Row {
  return { ...warmColumns(agent), ...UNUSED };
}

/** The columns that a change of a warm agent sets, with their values. */
export function warmColumns(agent: WarmChange): Row {
  return Object.fromEntries(Object.entries(agent).map(([field, value]) => [WARM[field as keyof WarmAgent], value]));
}

/** The warm agent in a complete row. */
export function toWarmAgent(row: Row): WarmAgent {
  return Object.fromEntries(
    Object.entries(WARM).map(([field, column]) => [field, row[column]]),
  ) as unknown as WarmAgent;
}

/** The columns that a session gets from a warm agent that it takes; they have the same names in both tables. */
export function claimedColumns(row: Row): Row {
  const { ProcessId, PodIP, AgentPort, CommandPort, ControlToken } = row;
  return { ProcessId, PodIP, AgentPort, CommandPort, ControlToken };
}
