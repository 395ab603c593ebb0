/**
 * Everything of the proxy but the handshake: loaded after the first Ping, since the client waits for that.
 * Decides when the process ends.
 */
import { isFolder } from "../proto/base/files.ts";
import { clientShellOptions } from "../proto/bazel/client_shell.ts";
import { cloudRegion } from "./session/cloud_metadata.ts";
import { Commands } from "./commands/commands.ts";
import type { Handshake } from "./client/handshake.ts";
import type { ServerArgs } from "../proto/bazel/server_args.ts";
import { Session } from "./session/session.ts";
import { log } from "./log.ts";

/** Bazel's server looks after its pid file as often. */
const CHECK_MS = 5_000;
/** How long after the last command memory is given back. */
const TIDY_MS = 1_000;
/** How long the last words to the orchestrator may take: the client waits for this process to vanish. */
const RELEASE_MS = 60;
/** What commands get to end when this process is told to. */
const CANCEL_MS = 5_000;

/** A timer that is set for longer goes off at once. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** The proxy after its handshake. */
export interface Proxy {
  commands: Commands;
}

/**
 * Starts the session and the reasons to end: an idle server (`--max_idle_secs`), a pid file that is somebody else's, a
 * workspace or output base that is gone, SIGTERM, and a `shutdown` from the client.
 *
 * @param close Stops the command server.
 */
export function serve(args: ServerArgs, handshake: Handshake, close: () => void): Proxy {
  let ending = false;
  const end = async (why: string, code = 0) => {
    if (ending) return;
    ending = true;
    log(`ending: ${why}`);
    handshake.withdraw();
    await session.release(RELEASE_MS);
    close();
    Deno.exit(code);
  };

  let idle: ReturnType<typeof setTimeout> | undefined;
  let tidy: ReturnType<typeof setTimeout> | undefined;
  let terminated = false;
  const onActivity = (running: number) => {
    clearTimeout(idle);
    clearTimeout(tidy);
    // Present if the engine was started with --expose-gc: what a large output left behind goes while nobody waits.
    if (running === 0) tidy = setTimeout(() => (globalThis as { gc?: () => void }).gc?.(), TIDY_MS);
    if (running === 0 && terminated) return void end("SIGTERM", 143);
    if (running === 0 && args.maxIdleSeconds > 0) {
      const milliseconds = Math.min(args.maxIdleSeconds * 1000, MAX_TIMEOUT_MS);
      idle = setTimeout(() => end(`no command for ${args.maxIdleSeconds} s`), milliseconds);
    }
  };

  const clientShell = clientShellOptions(Deno.env.get("RBS_SHELL_LIMITS") ?? "", Deno.env.toObject());
  const session = new Session({ ...args, clientShell }, { lookUpRegion: cloudRegion });
  const commands = new Commands(args, handshake, session, {
    onActivity,
    onTermination: () => end("shutdown"),
  });
  session.start();
  onActivity(0);
  // As the system names it: "." exists for as long as somebody is in it.
  const workspace = Deno.cwd();

  setInterval(() => {
    if (!handshake.isOurs()) end("server.pid.txt is gone or names another process");
    else if (!isFolder(workspace)) end("the workspace is gone");
  }, CHECK_MS);

  for (const ignored of ["SIGINT", "SIGHUP"] as const) Deno.addSignalListener(ignored, () => {});
  Deno.addSignalListener("SIGQUIT", () => {
    // A JVM prints its threads here; this is what corresponds to them.
    console.error([`rbs proxy, pid ${Deno.pid}`, session.describe(), ...commands.describe()].join("\n  "));
  });
  Deno.addSignalListener("SIGTERM", () => {
    terminated = true;
    if (!commands.cancelAll("The proxy got SIGTERM, so the command was cancelled.")) end("SIGTERM", 143);
    else setTimeout(() => end("SIGTERM", 143), CANCEL_MS);
  });
  return { commands };
}
