/** The client's server as a process: found by its files, started, watched and ended (Bazel 9.3, `src/main/cpp/blaze.cc`). */
import { Channel } from "./channel.ts";
import { ExitCode, Fields, Info, Response, Run } from "../messages.ts";
import { serverArguments, type Startup, wantsAnother } from "./startup_options.ts";

/** How often a server that starts, or ends, is looked for. Milliseconds. */
const POLL_MS = 100;
/** How long it may take to start, `--local_startup_timeout_secs`, and to end. Milliseconds. */
const START_MS = 120_000, END_MS = 60_000;
/** The only addresses that a client connects to. */
const LOOPBACK = /^(127\.0\.0\.1|\[::1\]|\[0:0:0:0:0:0:0:1\]):\d+$/;

/** A server that has answered a Ping. */
export interface Server extends Disposable {
  pid: number;
  channel: Channel;
  responseCookie: string;
}

/** What the client says and exits with when it cannot go on. */
export class Fatal extends Error {
  constructor(message: string, readonly exitCode: number = ExitCode.INTERNAL_ERROR) {
    super(message);
  }
}

const file = (outputBase: string, name: string) => `${outputBase}/server/${name}`;

function read(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}

/** The server that the output base names, if it is alive, is the one that was started, and answers. */
export async function connect(outputBase: string): Promise<Server | undefined> {
  let info: Fields;
  try {
    info = new Fields(Deno.readFileSync(file(outputBase, "server_info.rawproto")));
  } catch {
    return undefined;
  }
  const pid = info.number(Info.pid), responseCookie = info.text(Info.responseCookie);
  if (!LOOPBACK.test(info.text(Info.address)) || !isTheOne(pid, outputBase)) return undefined;
  const channel = new Channel(info.text(Info.address), info.text(Info.requestCookie));
  const answer = await channel.unary("Ping", [], 30_000).catch(() => undefined);
  if (answer && new Fields(answer).text(1) === responseCookie) {
    return { pid, channel, responseCookie, [Symbol.dispose]: () => channel.close() };
  }
  channel.close();
}

/** Field 22 of /proc/PID/stat. The client splits it at spaces, so that the process's name must have none. */
function startTime(pid: number): string | undefined {
  return read(`/proc/${pid}/stat`)?.split(" ")[21];
}

function isTheOne(pid: number, outputBase: string): boolean {
  const started = startTime(pid), noted = read(file(outputBase, "server.starttime"));
  return started !== undefined && !isZombie(pid) && (noted === undefined || noted === started);
}

function isZombie(pid: number): boolean {
  return /\) [ZX] /.test(read(`/proc/${pid}/stat`) ?? "");
}

/** Waits until a server's process has ended, as the client does after termination_expected; ends it by force after a minute. */
export async function awaitEnd(pid: number): Promise<void> {
  const deadline = performance.now() + END_MS;
  while (startTime(pid) !== undefined && !isZombie(pid)) {
    if (performance.now() > deadline) return killGroup(pid);
    await pause();
  }
}

/** A server is the leader of its group: what it has started ends as well. */
export function killGroup(pid: number): void {
  new Deno.Command("sh", { args: ["-c", 'kill -KILL "-$0" 2>/dev/null', String(pid)] }).outputSync();
}

const pause = () => new Promise((resolve) => setTimeout(resolve, POLL_MS));

/** Finds the server that the client wants, or makes it be there. @returns why it was started, if it was */
export async function ensureServer(
  startup: Startup,
  { version, command }: { version: string; command: string },
): Promise<{ server?: Server; restartReason?: string }> {
  const { outputBase } = startup;
  const wanted = [`bazel(${startup.workspace.split("/").at(-1)})`, ...serverArguments(startup)];
  let server = await connect(outputBase);
  if (!server && command === "shutdown") return {};
  let restartReason: string | undefined;
  if (server && link(outputBase) !== startup.installBase) {
    await endServer(server, startup);
    server = undefined;
    restartReason = "new_version";
  }
  if (link(outputBase) !== startup.installBase) relink(startup);
  const running = read(file(outputBase, "cmdline"))?.split("\0") ?? [];
  if (server && wantsAnother(running, wanted)) {
    say(startup, "INFO: Running Bazel server needs to be killed, because the startup options are different.");
    await endServer(server, startup);
    if (command === "shutdown") return {};
    server = undefined;
    restartReason = "new_options";
  }
  if (server) return { server };
  restartReason ??= await endLeftOver(outputBase);
  return { server: await start(startup, wanted, version), restartReason: restartReason ?? "no_daemon" };
}

function link(outputBase: string): string | undefined {
  try {
    return Deno.readLinkSync(`${outputBase}/install`);
  } catch {
    return undefined;
  }
}

function relink({ outputBase, installBase }: Startup): void {
  if (link(outputBase) !== undefined) Deno.removeSync(`${outputBase}/install`);
  Deno.symlinkSync(installBase, `${outputBase}/install`);
}

/** KillRunningServer: a `shutdown` on the client's own account, of whose answer nothing is shown. */
async function endServer(server: Server, { blockForLock }: Startup): Promise<void> {
  let last = new Fields(new Uint8Array());
  try {
    const responses = server.channel.stream("Run", [
      [Run.arg, "shutdown"],
      [Run.blockForLock, blockForLock],
      [Run.clientDescription, `pid=${Deno.pid} (for shutdown)`],
    ]);
    for await (const response of responses) last = new Fields(response);
  } catch { /* it is ended by force then */ }
  if (last.number(Response.exitCode) === ExitCode.LOCK_HELD) {
    throw new Fatal("Exiting because the lock is held and --noblock_for_lock was given.", ExitCode.LOCK_HELD);
  }
  server[Symbol.dispose]();
  await awaitEnd(server.pid);
}

/** EnsurePreviousServerProcessTerminated: a server that does not answer. @returns the reason of the restart */
async function endLeftOver(outputBase: string): Promise<string | undefined> {
  const pid = Number(read(file(outputBase, "server.pid.txt")) ?? "");
  if (!(pid > 0)) return undefined;
  if (!isTheOne(pid, outputBase)) return "pid_file_but_no_server";
  killGroup(pid);
  await awaitEnd(pid);
  return "server_unresponsive";
}

/** Starts a server by the install base's `daemonize`, and connects to it. */
async function start(startup: Startup, [name, ...args]: string[], version: string): Promise<Server> {
  const { outputBase, installBase, serverJavabase, workspace } = startup;
  say(startup, `Starting local Bazel server (${version}) and connecting to it...`);
  const java = `${serverJavabase || `${installBase}/embedded_tools/jdk`}/bin/java`;
  for (;;) {
    for (const stale of ["command_port", "server_info.rawproto"]) {
      await Deno.remove(file(outputBase, stale)).catch(() => {});
    }
    Deno.mkdirSync(`${outputBase}/server`, { recursive: true, mode: 0o700 });
    Deno.writeTextFileSync(file(outputBase, "cmdline"), [name, ...args].join("\0"));
    const log = file(outputBase, "jvm.out"), pidFile = file(outputBase, "server.pid.txt");
    await new Deno.Command(`${installBase}/daemonize`, {
      args: ["-l", log, "-p", pidFile, "--", java, name, ...args],
      cwd: workspace,
      clearEnv: true,
      env: await serverEnvironment(),
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    }).output();
    const pid = Number(read(pidFile));
    Deno.writeTextFileSync(file(outputBase, "server.starttime"), startTime(pid) ?? "");
    const server = await connectOrDie(outputBase, pid, log);
    // The client looks where its server is, and ends one that is elsewhere.
    if (Deno.readLinkSync(`/proc/${pid}/cwd`) === Deno.realPathSync(workspace)) return server;
    server[Symbol.dispose]();
    killGroup(pid);
  }
}

async function connectOrDie(outputBase: string, pid: number, log: string): Promise<Server> {
  const deadline = performance.now() + START_MS;
  while (performance.now() < deadline) {
    const server = await connect(outputBase);
    if (server) return server;
    // A stock client knows it by a socket that its server has inherited, which Deno cannot make.
    if (startTime(pid) === undefined || isZombie(pid)) {
      throw new Fatal(`Server crashed during startup. Now printing ${log}\n${read(log)}`);
    }
    await pause();
  }
  throw new Fatal(`couldn't connect to server (${pid}) after ${START_MS / 1000} seconds.`);
}

/** What a server must not get (PrepareEnvironmentForJvm). */
const NOT_FOR_JVMS = ["LD_PRELOAD", "LD_ASSUME_KERNEL", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS"];
/** The first of them that this machine has is the server's (since 8.4, bazelbuild/bazel#26554). */
const LOCALES = { "en_US.iso88591": "en_US.ISO-8859-1", "C.utf8": "C.UTF-8", "en_US.utf8": "en_US.UTF-8" };

async function serverEnvironment(): Promise<Record<string, string>> {
  const env = Deno.env.toObject();
  for (const name of [...NOT_FOR_JVMS, "DENO_DIR"]) delete env[name];
  const locale = await serverLocale();
  if (locale) { for (const name of ["LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"]) env[name] = locale; }
  return env;
}

/** LC_ALL of a server that a client of this machine starts; undefined: the user's own. */
export async function serverLocale(): Promise<string | undefined> {
  const { stdout } = await new Deno.Command("locale", { args: ["-a"], stderr: "null" }).output();
  const there = new TextDecoder().decode(stdout).split("\n");
  return Object.entries(LOCALES).find(([name]) => there.includes(name))?.[1];
}

function say({ quiet }: Startup, line: string): void {
  if (!quiet) console.error(line);
}
