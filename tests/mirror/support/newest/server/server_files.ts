/** The files by which a server is found and known, and the lock on its install base (Bazel 9.3). */
import { randomBytes } from "node:crypto";
import { encodeFields } from "../../../../../proto/base/protobuf_fields.ts";
import { ExitCode, Info } from "../messages.ts";

/** How often a server looks whether server.pid.txt still names it (`PidFileWatcher.java`). Milliseconds. */
const CHECK_MS = 5_000;

/** How clients prove that they may read the output base, and this server that it is the one. */
export interface Cookies {
  request: string;
  response: string;
}

/** A number without leading zeros: 31 characters now and then. */
export function newCookies(): Cookies {
  const cookie = () => randomBytes(16).toString("hex").replace(/^0+/, "");
  return { request: cookie(), response: cookie() };
}

/**
 * Holds `<install base>.lock` shared for as long as the server lives, as 8.1 and later do with `--lock_install_base`: the
 * file is opened for reading and writing and made if it is missing (`BlazeRuntime.java`). Without it there is no server.
 */
export async function lockInstallBase(installBase: string): Promise<void> {
  try {
    const lock = Deno.openSync(`${installBase}.lock`, { read: true, write: true, create: true });
    await lock.lock(false);
  } catch (error) {
    console.error(`ERROR: Failed to acquire shared lock on install base: ${(error as Error).message}`);
    Deno.exit(ExitCode.LOCAL_ENVIRONMENTAL_ERROR);
  }
}

/** Writes the handshake files, as `GrpcServerImpl.java` does: the old ones first, then the one that 9.x's client reads. */
export function writeHandshake(outputBase: string, address: string, { request, response }: Cookies): void {
  const files: [string, string | Uint8Array][] = [
    ["request_cookie", request],
    ["response_cookie", response],
    ["command_port", address],
    [
      "server_info.rawproto",
      encodeFields([
        [Info.pid, Deno.pid],
        [Info.address, address],
        [Info.requestCookie, request],
        [Info.responseCookie, response],
      ]),
    ],
  ];
  for (const [name, content] of files) {
    const path = `${outputBase}/server/${name}`;
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    Deno.writeFileSync(`${path}.tmp`, bytes, { mode: 0o600 });
    Deno.renameSync(`${path}.tmp`, path);
  }
}

/** Ends the server when its pid file is gone or names another one. */
export function watchPidFile(outputBase: string): void {
  const path = `${outputBase}/server/server.pid.txt`;
  const isOurs = () => {
    try {
      return Deno.readTextFileSync(path) === String(Deno.pid);
    } catch {
      return false;
    }
  };
  if (!isOurs()) {
    console.error(`ERROR: ${path} does not name this process`);
    Deno.exit(ExitCode.LOCAL_ENVIRONMENTAL_ERROR);
  }
  setInterval(() => isOurs() || Deno.exit(ExitCode.INTERNAL_ERROR), CHECK_MS);
}

/** Removes the files, as the server's last act. */
export function removeHandshake(outputBase: string): void {
  for (const name of ["server_info.rawproto", "command_port", "request_cookie", "response_cookie", "server.pid.txt"]) {
    try {
      Deno.removeSync(`${outputBase}/server/${name}`);
    } catch { /* gone */ }
  }
}
