import type { SpannerMigrations } from "./spanner_migrations.ts";

/** The tables of a SpannerSessions. */
export const SESSION_MIGRATIONS: SpannerMigrations = {
  1: {
    statements: [
      `CREATE TABLE IF NOT EXISTS BuildSessions (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       SessionId STRING(MAX) NOT NULL,
       PodIP STRING(MAX) NOT NULL,
       Status STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
       AgentPort INT64 NOT NULL,
       CommandPort INT64 NOT NULL,
       ComputeService STRING(MAX) NOT NULL,
       ProcessId STRING(MAX) NOT NULL,
       Region STRING(MAX) NOT NULL,
       StartupOptionsHash STRING(MAX) NOT NULL,
       StartupOptions STRING(MAX) NOT NULL,
       SourcePath STRING(MAX) NOT NULL,
       StorageDirectory STRING(MAX) NOT NULL,
       AccessToken STRING(MAX) NOT NULL,
       ControlToken STRING(MAX) NOT NULL,
       Warnings STRING(MAX) NOT NULL,
       SamePaths INT64 NOT NULL,
       Synced INT64 NOT NULL,
       MissingInstallBase STRING(MAX) NOT NULL,
       Failure STRING(MAX) NOT NULL,
       FailureTransient INT64 NOT NULL,
       CreatedAt INT64 NOT NULL,
       LastHeartbeat INT64 NOT NULL,
       CONSTRAINT KnownStatus CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     ) PRIMARY KEY (UserId, RepoHash)`,
      // The highest epoch of keys whose session is gone: a fencing token must never be used twice.
      `CREATE TABLE IF NOT EXISTS SessionEpochs (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
     ) PRIMARY KEY (UserId, RepoHash)`,
    ],
  },
  // Several orchestrators on one database.
  4: {
    statements: [
      `ALTER TABLE BuildSessions ADD COLUMN IF NOT EXISTS Holder STRING(MAX) NOT NULL DEFAULT ("")`,
      `ALTER TABLE BuildSessions ADD COLUMN IF NOT EXISTS Term INT64 NOT NULL DEFAULT (0)`,
    ],
  },
  // Several servers of a user for one workspace. A primary key cannot be altered, so the tables are new.
  5: {
    statements: [
      `CREATE TABLE IF NOT EXISTS ServerSessions (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       ServerId STRING(MAX) NOT NULL,
       SessionId STRING(MAX) NOT NULL,
       PodIP STRING(MAX) NOT NULL,
       Status STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
       Term INT64 NOT NULL,
       AgentPort INT64 NOT NULL,
       CommandPort INT64 NOT NULL,
       ComputeService STRING(MAX) NOT NULL,
       ProcessId STRING(MAX) NOT NULL,
       Region STRING(MAX) NOT NULL,
       StartupOptionsHash STRING(MAX) NOT NULL,
       StartupOptions STRING(MAX) NOT NULL,
       SourcePath STRING(MAX) NOT NULL,
       StorageDirectory STRING(MAX) NOT NULL,
       AccessToken STRING(MAX) NOT NULL,
       ControlToken STRING(MAX) NOT NULL,
       Warnings STRING(MAX) NOT NULL,
       SamePaths INT64 NOT NULL,
       Synced INT64 NOT NULL,
       MissingInstallBase STRING(MAX) NOT NULL,
       Failure STRING(MAX) NOT NULL,
       FailureTransient INT64 NOT NULL,
       Holder STRING(MAX) NOT NULL,
       CreatedAt INT64 NOT NULL,
       LastHeartbeat INT64 NOT NULL,
       AdoptedBy STRING(MAX) NOT NULL,
       CONSTRAINT KnownServerStatus CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     ) PRIMARY KEY (UserId, RepoHash, ServerId)`,
      `CREATE TABLE IF NOT EXISTS ServerEpochs (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       ServerId STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
     ) PRIMARY KEY (UserId, RepoHash, ServerId)`,
    ],
  },
  // An older orchestrator that still runs on the database learns that its tables are gone, and leaves its agents alone.
  6: {
    moves: [
      { from: "SessionEpochs", to: "ServerEpochs", more: { ServerId: "" } },
      { from: "BuildSessions", to: "ServerSessions", more: { ServerId: "", AdoptedBy: "" } },
    ],
    statements: [
      `DROP TABLE IF EXISTS BuildSessions`,
      `DROP TABLE IF EXISTS SessionEpochs`,
    ],
  },
};
