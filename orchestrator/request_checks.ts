import { Buffer } from "node:buffer";
import { Code, RpcError } from "../proto/rpc.ts";
import { repoHash } from "../proto/workspace.ts";
import type { SessionKey } from "./sessions/session.ts";
import type { ServerRequest } from "./sessions/session_service.ts";

/** The longest user id, in characters. */
const USER_ID_MAX = 128;
/** The longest path that Linux takes, in bytes. */
const PATH_MAX = 4096;
/** The longest sum of all startup options, in bytes; a client's own have about 5 kB. */
const STARTUP_OPTIONS_MAX = 1 << 20;
const REGION_MAX = 64;

function refuse(message: string): never {
  throw new RpcError(Code.INVALID_ARGUMENT, message);
}

/** Checks a user id: 1 to 128 characters, none of them a slash or a control character. */
export function checkUserId(userId: string): string {
  if (userId === "") refuse("user_id is empty.");
  if (userId.length > USER_ID_MAX) {
    refuse(`user_id has ${userId.length} characters, and at most ${USER_ID_MAX} are allowed.`);
  }
  // deno-lint-ignore no-control-regex
  if (/[\x00-\x1f\x7f-\x9f/]/.test(userId)) {
    refuse(`user_id ${JSON.stringify(userId)} holds a slash or a control character.`);
  }
  return userId;
}

/** Checks the parts of a key. */
export function checkKey(request: { userId: string; repoHash: string }): SessionKey {
  checkUserId(request.userId);
  if (!/^[0-9a-f]{32}$/.test(request.repoHash)) {
    refuse(`repo_hash must be 32 lowercase hex digits, but it is ${shown(request.repoHash)}.`);
  }
  return { userId: request.userId, repoHash: request.repoHash };
}

/** Checks a session id: 32 lowercase hex digits. */
export function checkSessionId(sessionId: string): string {
  if (!/^[0-9a-f]{32}$/.test(sessionId)) {
    refuse(`session_id must be 32 lowercase hex digits, but it is ${shown(sessionId)}.`);
  }
  return sessionId;
}

/** Checks all of a GetServerRequest. Throws an RpcError with INVALID_ARGUMENT that names the field. */
export function checkServerRequest(request: {
  userId: string;
  repoHash: string;
  sessionId: string;
  sourcePath: string;
  startupOptions: string[];
  region: string;
}): ServerRequest {
  const { sourcePath, startupOptions, region } = request;
  const key = checkKey(request);
  const sessionId = checkSessionId(request.sessionId);
  if (!sourcePath.startsWith("/")) refuse(`source_path must be an absolute path, but it is ${shown(sourcePath)}.`);
  if (sourcePath.includes("\0")) refuse("source_path holds a NUL byte.");
  if (Buffer.byteLength(sourcePath) > PATH_MAX) refuse(`source_path is longer than ${PATH_MAX} bytes.`);
  if (repoHash(sourcePath) !== request.repoHash) {
    refuse(`repo_hash ${request.repoHash} is not the MD5 of the source_path ${shown(sourcePath)}.`);
  }
  const size = startupOptions.reduce((sum, option) => sum + Buffer.byteLength(option) + 1, 0);
  if (size > STARTUP_OPTIONS_MAX) {
    refuse(`startup_options are ${size} bytes long, and at most ${STARTUP_OPTIONS_MAX} are allowed.`);
  }
  if (startupOptions.some((option) => option.includes("\0"))) refuse("startup_options hold a NUL byte.");
  if (region.length > REGION_MAX || !/^[A-Za-z0-9._-]*$/.test(region)) {
    refuse(`region must be at most ${REGION_MAX} letters, digits, dots or dashes, but it is ${shown(region)}.`);
  }
  return { ...key, sessionId, sourcePath, startupOptions, region };
}

/** A value of a caller as it stands in a message: quoted, and not longer than a line. */
function shown(value: string): string {
  return JSON.stringify(value.length > 100 ? value.slice(0, 100) + "…" : value);
}
