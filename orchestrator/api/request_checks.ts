import { Buffer } from "node:buffer";
import { isAbsolutePath, isAtOrIn, pathFault, quoted } from "../../proto/base/absolute_path.ts";
import { realPath } from "../../proto/base/real_path.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { startupOption, startupPathFault } from "../../proto/bazel/startup_options.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import type { SessionKey } from "../store/session.ts";
import type { ServerRequest } from "../sessions/server_request.ts";

/** The longest user id, in characters. */
const USER_ID_MAX = 128;
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
export function checkKey(request: { userId: string; repoHash: string; serverId: string }): SessionKey {
  checkUserId(request.userId);
  if (!/^[0-9a-f]{32}$/.test(request.repoHash)) {
    refuse(`repo_hash must be 32 lowercase hex digits, but it is ${quoted(request.repoHash)}.`);
  }
  if (!/^([0-9a-f]{16})?$/.test(request.serverId)) {
    refuse(`server_id must be 16 lowercase hex digits or empty, but it is ${quoted(request.serverId)}.`);
  }
  return { userId: request.userId, repoHash: request.repoHash, serverId: request.serverId };
}

/** Checks a session id: 32 lowercase hex digits. */
export function checkSessionId(sessionId: string): string {
  if (!/^[0-9a-f]{32}$/.test(sessionId)) {
    refuse(`session_id must be 32 lowercase hex digits, but it is ${quoted(sessionId)}.`);
  }
  return sessionId;
}

/** Checks all of a GetServerRequest. Throws an RpcError with INVALID_ARGUMENT that names the field. */
export function checkServerRequest(request: {
  userId: string;
  repoHash: string;
  serverId: string;
  sessionId: string;
  sourcePath: string;
  startupOptions: string[];
  region: string;
}): ServerRequest {
  const { sourcePath, startupOptions, region } = request;
  const key = checkKey(request);
  const sessionId = checkSessionId(request.sessionId);
  if (!isAbsolutePath(sourcePath)) refuse(`source_path ${pathFault(sourcePath)}, but it is ${quoted(sourcePath)}.`);
  if (repoHash(sourcePath) !== request.repoHash) {
    refuse(`repo_hash ${request.repoHash} is not the MD5 of the source_path ${quoted(sourcePath)}.`);
  }
  const size = startupOptions.reduce((sum, option) => sum + Buffer.byteLength(option) + 1, 0);
  if (size > STARTUP_OPTIONS_MAX) {
    refuse(`startup_options are ${size} bytes long, and at most ${STARTUP_OPTIONS_MAX} are allowed.`);
  }
  if (startupOptions.some((option) => option.includes("\0"))) refuse("startup_options hold a NUL byte.");
  const fault = startupPathFault(startupOptions);
  if (fault) refuse(fault);
  if (region.length > REGION_MAX || !/^[A-Za-z0-9._-]*$/.test(region)) {
    refuse(`region must be at most ${REGION_MAX} letters, digits, dots or dashes, but it is ${quoted(region)}.`);
  }
  return { ...key, sessionId, sourcePath, startupOptions, region };
}

/**
 * Refuses a session on this disk whose workspace or output base is, or lies in, what no session may see. What the agent
 * finds when it starts counts as well; here the caller is told at once. Throws an RpcError with PERMISSION_DENIED.
 *
 * @param hidden Real paths: the state directory, the storage root, keys.
 */
export function checkNotHidden(
  { sourcePath, startupOptions }: Pick<ServerRequest, "sourcePath" | "startupOptions">,
  hidden: readonly string[],
): void {
  const named = { "workspace": sourcePath, "output base": startupOption(startupOptions, "output_base") };
  for (const [what, path] of Object.entries(named)) {
    if (path === undefined) continue;
    for (const place of [path, realPathOf(path)]) {
      if (!hidden.some((folder) => isAtOrIn(place, folder))) continue;
      throw new RpcError(
        Code.PERMISSION_DENIED,
        `The ${what} ${
          quoted(path)
        } is or lies in what no session may see, the orchestrator's keys and storage: use another.`,
      );
    }
  }
}

/** Where a path leads; the path itself where the orchestrator has no right to look. */
function realPathOf(path: string): string {
  try {
    return realPath(path);
  } catch {
    return path;
  }
}
