/** `orchestrator install`, `status` and `stop`: an orchestrator that nobody has to keep a terminal open for. */
import { join } from "node:path";
import { pause } from "../../proto/base/timers.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { DEFAULT_ORCHESTRATOR_ADDR, stateDirectory } from "../../proto/base/state_directory.ts";
import { INHERITED_VARIABLES } from "../compute/process/agent_environment.ts";
import { type Flags, parseFlags } from "../flags.ts";
import { formatHostPort, parseHostPort } from "../../proto/base/host_port.ts";
import { checkHost } from "../api/listen.ts";
import { prepareDirectory } from "../state_directory.ts";
import { Detached } from "./detached.ts";
import { type Run, runProgram, type Service, type ServiceManager } from "./service.ts";
import { Systemd, unitName } from "./systemd.ts";

/** The first words of the command lines that are meant. */
const VERBS = ["install", "status", "stop"];
/** How long an orchestrator may take to be ready. Milliseconds. */
const READY_MS = 30_000;
/** How often that is looked for, and how long there may be no process: systemd makes a pause between two. Milliseconds. */
const LOOK_MS = 50, GONE_MS = 3_000;
/** In the state directory: a JSON array of the options of the last install. */
const OPTIONS_FILE = "orchestrator.options";
/** Exit code of `status` when none runs. */
const NOT_RUNNING = 1;

const HELP =
  `Usage: orchestrator install [OPTIONS]   starts an orchestrator in the background and replaces one that was installed
                                        before; OPTIONS are those of an orchestrator (see --help); --local-mode is
                                        implied
       orchestrator status [--state-dir=DIRECTORY]   shows whether it runs; exit code 0: it does, 1: it does not
       orchestrator stop [--state-dir=DIRECTORY]     ends it and its agents; it does not start again by itself

Where the user has a systemd, it is a user unit and starts with each login. Elsewhere it is a background process; its
number is in orchestrator.pid of the state directory. It logs to orchestrator.log there. It keeps the PATH and the RBS_
variables with which it was installed.`;

/** What these commands work with. */
export interface ServiceContext {
  /** The orchestrator's own program. Absolute. */
  program: string;
  /** Its URL, see {@link parseFlags}. */
  url: string;
  /** Absolute. */
  workingDirectory: string;
  /** The variables that the service keeps. */
  environment: Readonly<Record<string, string>>;
  /** Where the user's units are. Absolute. */
  unitFolder: string;
  print(line: string): void;
  /** @default programs of this machine */
  run?: Run;
}

/** Of an environment, what an orchestrator and its agents may need: what it inherits anyway where it is started by hand. */
export function keptEnvironment(all: Readonly<Record<string, string>>): Record<string, string> {
  const inherited: readonly string[] = INHERITED_VARIABLES;
  const isKept = (name: string) =>
    inherited.includes(name) || /^(RBS|SPANNER|GOOGLE)_/.test(name) || name === "XDG_STATE_HOME" ||
    name === "GCLOUD_PROJECT";
  return Object.fromEntries(Object.entries(all).filter(([name]) => isKept(name)));
}

/** Whether a command line is one of these. */
export function isServiceCommand(args: readonly string[]): boolean {
  return VERBS.includes(args[0]);
}

/** Does it. @returns the exit code. Throws an RbsError. */
export async function runServiceCommand(args: readonly string[], context: ServiceContext): Promise<number> {
  const [verb, ...options] = args;
  if (options.some((option) => option === "--help" || option === "-h")) {
    context.print(HELP);
    return 0;
  }
  if (context.program.endsWith(".ts")) {
    throw new RbsError("Only dist/orchestrator can be installed: make it with `deno task compile`.", {
      culprit: "caller",
      exitCode: 2,
    });
  }
  const flags = parseFlags(["--local-mode", ...options], context.url);
  if (!flags) return 0;
  const manager = await managerFor(flags, context);
  switch (verb) {
    case "install":
      return await install(options, flags, manager, context);
    case "status":
      return await status(flags, manager, context);
    default:
      return await stop(manager, context);
  }
}

async function managerFor(
  { stateDir }: Flags,
  { unitFolder, run = runProgram }: ServiceContext,
): Promise<ServiceManager> {
  return await Systemd.isThere(run)
    ? new Systemd(unitFolder, unitName(stateDir, stateDirectory()), run)
    : new Detached(stateDir, run);
}

async function install(
  options: readonly string[],
  flags: Flags,
  manager: ServiceManager,
  context: ServiceContext,
): Promise<number> {
  const { program, workingDirectory, environment, print } = context;
  const { stateDir, listen, port } = flags;
  prepareDirectory(stateDir, "state directory", "name another with --state-dir");
  const service: Service = {
    program,
    args: ["--local-mode", ...options],
    workingDirectory,
    environment,
    stateDirectory: stateDir,
    log: logOf(flags),
  };
  // Before anything is ended.
  checkHost(listen);
  const former = await manager.pid();
  if (former !== undefined) {
    print(`The orchestrator that ran, process ${former}, is ended, and its sessions with it.`);
    await manager.stop();
  }
  const address = formatHostPort(listen, port);
  if (port !== 0 && !await isFree(address)) {
    throw new RbsError(
      `Something listens on ${address} already: end it first (an orchestrator in a terminal by Ctrl-C), or choose ` +
        `another --port.`,
      { culprit: "caller" },
    );
  }
  noteOptions(flags, options);
  const before = sizeOf(service.log);
  await manager.start(service);
  const ready = await waitUntilReady(service.log, before, manager);
  print(`The orchestrator is ready on ${ready} (${manager.name}, process ${await manager.pid()}).`);
  print(manager.endurance);
  print(`To install it again: \`${command(program, options)}\`.`);
  if (ready !== DEFAULT_ORCHESTRATOR_ADDR) {
    print(`Its users set RBS_ORCHESTRATOR_ADDR=${ready}. Proxies that already run are ended by \`bazel shutdown\`.`);
  }
  print(`It logs to ${service.log}. \`${program} status\` and \`${program} stop\` are for it.`);
  return 0;
}

async function status(flags: Flags, manager: ServiceManager, { print, program }: ServiceContext): Promise<number> {
  const pid = await manager.pid();
  if (pid !== undefined) {
    const ready = [...textFrom(logOf(flags), 0).matchAll(READY)].at(-1)?.[1];
    print(
      `The orchestrator runs (${manager.name}, process ${pid}), ready on ${ready ?? "an address that its log lacks"}.`,
    );
    const noted = notedOptions(flags);
    print(`${noted ? `Installed by \`${command(program, noted)}\`. ` : ""}Its log: ${logOf(flags)}`);
    return 0;
  }
  print(
    await manager.isInstalled()
      ? `An orchestrator was installed, but does not run: see ${logOf(flags)}, and start it by ` +
        `\`${command(program, notedOptions(flags) ?? [])}\`.`
      : `No orchestrator runs in the background: \`${program} install\` starts one.`,
  );
  return NOT_RUNNING;
}

async function stop(manager: ServiceManager, { print }: ServiceContext): Promise<number> {
  const pid = await manager.pid();
  await manager.stop();
  print(pid === undefined ? "No orchestrator ran in the background." : `The orchestrator, process ${pid}, has ended.`);
  return 0;
}

/** What an orchestrator prints when it is ready. */
const READY = /^rbs orchestrator ready on (\S+)/gm;

async function waitUntilReady(log: string, from: number, manager: ServiceManager): Promise<string> {
  const deadline = performance.now() + READY_MS;
  let thereAt = performance.now();
  for (;;) {
    const said = textFrom(log, from);
    const ready = [...said.matchAll(READY)].at(-1)?.[1];
    if (ready) return ready;
    const failure = /^orchestrator: (.*)$/m.exec(said)?.[1];
    const now = performance.now();
    if (await manager.pid() !== undefined) thereAt = now;
    if (failure || now > deadline || now - thereAt > GONE_MS) {
      await manager.stop();
      const why = now > deadline ? `was not ready within ${READY_MS / 1000} s` : "ended before it was ready";
      throw new RbsError(failure ?? `The orchestrator ${why}: see ${log}.`);
    }
    await pause(LOOK_MS);
  }
}

async function isFree(address: string): Promise<boolean> {
  const at = parseHostPort(address);
  if (await new OrchestratorAddresses(address).areRefused()) return true;
  try {
    if (at) (await Deno.connect({ hostname: at.host, port: at.port })).close();
    return false;
  } catch {
    return true;
  }
}

function command(program: string, options: readonly string[]): string {
  return [program, "install", ...options.map((option) => /^[\w@%+=:,./-]+$/.test(option) ? option : `'${option}'`)]
    .join(" ");
}

/** Remembers with what it was installed, for who has to start it again. */
function noteOptions({ stateDir }: Flags, options: readonly string[]): void {
  try {
    Deno.writeTextFileSync(join(stateDir, OPTIONS_FILE), JSON.stringify(options), { mode: 0o600 });
  } catch { /* then nobody is told */ }
}

function notedOptions({ stateDir }: Flags): string[] | undefined {
  try {
    const noted: unknown = JSON.parse(Deno.readTextFileSync(join(stateDir, OPTIONS_FILE)));
    return Array.isArray(noted) && noted.every((option) => typeof option === "string") ? noted : undefined;
  } catch {
    return undefined;
  }
}

function logOf({ stateDir }: Flags): string {
  return join(stateDir, "orchestrator.log");
}

function sizeOf(file: string): number {
  try {
    return Deno.statSync(file).size;
  } catch {
    return 0;
  }
}

/** The text of a file from a byte on; empty if there is no such file. Throws an RbsError. */
function textFrom(file: string, offset: number): string {
  try {
    return new TextDecoder().decode(Deno.readFileSync(file).subarray(offset));
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return "";
    throw new RbsError(`The log ${file} cannot be read (${sentence(cause)}): make it readable.`, { cause });
  }
}
