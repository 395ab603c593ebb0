import type { SqliteMigrations } from "./sqlite_database.ts";

/** The tables of a SqliteSessions. */
export const SESSION_MIGRATIONS: SqliteMigrations = {
  1: `CREATE TABLE BuildSessions (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     SessionId TEXT NOT NULL,
     PodIP TEXT NOT NULL,
     Status TEXT NOT NULL CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     Epoch INTEGER NOT NULL,
     AgentPort INTEGER NOT NULL,
     CommandPort INTEGER NOT NULL,
     ComputeService TEXT NOT NULL,
     ProcessId TEXT NOT NULL,
     Region TEXT NOT NULL,
     StartupOptionsHash TEXT NOT NULL,
     StartupOptions TEXT NOT NULL,
     SourcePath TEXT NOT NULL,
     StorageDirectory TEXT NOT NULL,
     AccessToken TEXT NOT NULL,
     ControlToken TEXT NOT NULL,
     Warnings TEXT NOT NULL,
     SamePaths INTEGER NOT NULL,
     Failure TEXT NOT NULL,
     FailureTransient INTEGER NOT NULL,
     CreatedAt INTEGER NOT NULL,
     LastHeartbeat INTEGER NOT NULL,
     PRIMARY KEY (UserId, RepoHash)
   ) STRICT, WITHOUT ROWID;
   -- The highest epoch of keys whose session is gone: a fencing token must never be given out twice.
   CREATE TABLE SessionEpochs (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     Epoch INTEGER NOT NULL,
     PRIMARY KEY (UserId, RepoHash)
   ) STRICT, WITHOUT ROWID;`,
  2: `ALTER TABLE BuildSessions ADD COLUMN Synced INTEGER NOT NULL DEFAULT 0;
   ALTER TABLE BuildSessions ADD COLUMN MissingInstallBase TEXT NOT NULL DEFAULT '';`,
  // Several orchestrators on one file.
  5: `ALTER TABLE BuildSessions ADD COLUMN Holder TEXT NOT NULL DEFAULT '';
   ALTER TABLE BuildSessions ADD COLUMN Term INTEGER NOT NULL DEFAULT 0;`,
  // Several servers of a user for one workspace. The tables have new names, so that an older orchestrator that still
  // runs on the file learns that its tables are gone, and leaves its agents alone instead of mixing up sessions.
  6: `CREATE TABLE ServerSessions (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     ServerId TEXT NOT NULL,
     SessionId TEXT NOT NULL,
     PodIP TEXT NOT NULL,
     Status TEXT NOT NULL CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     Epoch INTEGER NOT NULL,
     Term INTEGER NOT NULL,
     AgentPort INTEGER NOT NULL,
     CommandPort INTEGER NOT NULL,
     ComputeService TEXT NOT NULL,
     ProcessId TEXT NOT NULL,
     Region TEXT NOT NULL,
     StartupOptionsHash TEXT NOT NULL,
     StartupOptions TEXT NOT NULL,
     SourcePath TEXT NOT NULL,
     StorageDirectory TEXT NOT NULL,
     AccessToken TEXT NOT NULL,
     ControlToken TEXT NOT NULL,
     Warnings TEXT NOT NULL,
     SamePaths INTEGER NOT NULL,
     Synced INTEGER NOT NULL,
     MissingInstallBase TEXT NOT NULL,
     Failure TEXT NOT NULL,
     FailureTransient INTEGER NOT NULL,
     Holder TEXT NOT NULL,
     CreatedAt INTEGER NOT NULL,
     LastHeartbeat INTEGER NOT NULL,
     AdoptedBy TEXT NOT NULL,
     PRIMARY KEY (UserId, RepoHash, ServerId)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE ServerEpochs (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     ServerId TEXT NOT NULL,
     Epoch INTEGER NOT NULL,
     PRIMARY KEY (UserId, RepoHash, ServerId)
   ) STRICT, WITHOUT ROWID;
   INSERT INTO ServerSessions
     (UserId, RepoHash, ServerId, SessionId, PodIP, Status, Epoch, Term, AgentPort, CommandPort, ComputeService, ProcessId,
      Region, StartupOptionsHash, StartupOptions, SourcePath, StorageDirectory, AccessToken, ControlToken, Warnings,
      SamePaths, Synced, MissingInstallBase, Failure, FailureTransient, Holder, CreatedAt, LastHeartbeat, AdoptedBy)
     SELECT UserId, RepoHash, '', SessionId, PodIP, Status, Epoch, Term, AgentPort, CommandPort, ComputeService, ProcessId,
       Region, StartupOptionsHash, StartupOptions, SourcePath, StorageDirectory, AccessToken, ControlToken, Warnings,
       SamePaths, Synced, MissingInstallBase, Failure, FailureTransient, Holder, CreatedAt, LastHeartbeat, ''
     FROM BuildSessions;
   INSERT INTO ServerEpochs (UserId, RepoHash, ServerId, Epoch) SELECT UserId, RepoHash, '', Epoch FROM SessionEpochs;
   DROP TABLE BuildSessions;
   DROP TABLE SessionEpochs;`,
};
