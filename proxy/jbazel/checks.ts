/** What can be wrong on a machine, one function per check, and how to fix it. */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { X509Certificate } from "node:crypto";
import { statfsSync } from "node:fs";
import { lookup } from "node:dns/promises";
import { join } from "node:path";
import { isFile } from "../../proto/base/files.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import {
  authoritiesFile,
  holderFile,
  keyDirectory,
  readSecret,
  readValidCredentials,
  userOf,
} from "../../proto/identity/key_directory.ts";
import { findWorkspace, WORKSPACE_MARKERS } from "../../proto/bazel/workspace.ts";
import { inspectJavabase } from "./javabase.ts";
import { OrchestratorSession } from "./orchestrator_session.ts";
import { findLocalServer, outputBase } from "./output_base.ts";
import type { RunProgram } from "./programs.ts";
import { localBazelLabel } from "./bazel_version.ts";
import { installCommand } from "./orchestrator_program.ts";
import { lastOption, type RcStartupOption } from "./rc_options.ts";
import { shellWord } from "./shell_word.ts";
import type { Standing } from "./standing.ts";
import { findStartupOptions } from "./startup_options.ts";
import type { Settings } from "./settings.ts";

/** The result of a check. */
export interface Finding {
  /** "skip": there was nothing to check yet, or another check reports the problem. */
  level: "ok" | "warn" | "FAIL" | "skip";
  text: string;
  /** How to fix it. */
  fix?: string;
  /** The command line for that, as a user can type it. */
  command?: string;
}

/** The input of the checks. */
export interface DoctorContext {
  settings: Settings;
  /** Absolute path. */
  workingDirectory: string;
  /** The javabase that belongs to this jbazel. Absolute path. */
  javabase: string;
  env(name: string): string | undefined;
  run: RunProgram;
  /** @default this machine's */
  systemRcFiles?: string[];
  /** The effective user. */
  uid: number | null;
  /** The command by which the user calls jbazel. */
  self: string;
  standing: Standing;
}

/** A name and a check. A check that throws counts as failed. */
type Check = [name: string, check: (context: DoctorContext) => Promise<Finding> | Finding];

const ok = (text: string): Finding => ({ level: "ok", text });
const skip = (text: string): Finding => ({ level: "skip", text });
const warn = (text: string, fix?: string, command?: string): Finding => ({ level: "warn", text, fix, command });
const fail = (text: string, fix?: string, command?: string): Finding => ({ level: "FAIL", text, fix, command });

const GIB = 2 ** 30;
const INSTALL = (packages: string) => `install it (Debian, Ubuntu: apt install ${packages})`;
/** The command line that installs packages; undefined where they have other names. */
const installLine = (packages: string, uid: number | null) =>
  isFile("/usr/bin/apt") ? `${uid === 0 ? "" : "sudo "}apt install ${packages}` : undefined;

async function rcOptions(
  { workingDirectory, env, systemRcFiles, run }: DoctorContext,
): Promise<{ workspace: string | undefined; options: RcStartupOption[]; unfollowed: string | undefined }> {
  const workspace = findWorkspace(workingDirectory);
  let unfollowed: string | undefined;
  const options = await findStartupOptions({
    workspace,
    home: env("HOME"),
    systemRcFiles,
    bazelLabel: () => localBazelLabel(run),
    warn: (sentence) => unfollowed = sentence,
  });
  return { workspace, options, unfollowed };
}

async function loopback(): Promise<Finding> {
  try {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const accepted = listener.accept();
    using _there = await Deno.connect({ hostname: "127.0.0.1", port: (listener.addr as Deno.NetAddr).port });
    using _here = await accepted;
    return ok("127.0.0.1 accepts connections");
  } catch (e) {
    return fail(
      `127.0.0.1 cannot be used (${sentence(e)})`,
      "bring the loopback interface up",
      "sudo ip link set lo up",
    );
  }
}

async function localhost(): Promise<Finding> {
  const fix = 'add the line "127.0.0.1 localhost" to /etc/hosts, or name the orchestrator by its number';
  const command = "export RBS_ORCHESTRATOR_ADDR=127.0.0.1:50051";
  try {
    const addresses = (await lookup("localhost", { all: true })).map((a) => a.address);
    const good = addresses.some((a) => a === "127.0.0.1" || a === "::1");
    return good
      ? ok(`localhost is ${addresses.join(", ")}`)
      : fail(`localhost is ${addresses.join(", ")}`, fix, command);
  } catch (e) {
    return fail(`localhost is not known (${sentence(e)})`, fix, command);
  }
}

function stateDirectory({ settings, uid }: DoctorContext): Finding {
  const path = settings.stateDirectory;
  let info: Deno.FileInfo;
  try {
    info = Deno.statSync(path);
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) {
      return fail(`${path} cannot be seen (${sentence(e)})`, "check RBS_STATE_DIR");
    }
    return skip(`${path} is not there yet: it comes with the key`);
  }
  if (!info.isDirectory) return fail(`${path} is no directory`, "move it away, or set RBS_STATE_DIR");
  if (uid !== null && info.uid !== null && info.uid !== uid) {
    return fail(
      `${path} belongs to user ${info.uid}, not to you (${uid})`,
      "set RBS_STATE_DIR to a directory of your own",
    );
  }
  const mode = (info.mode ?? 0) & 0o777;
  const chmod = `chmod 700 ${shellWord(path)}`;
  if (mode & 0o077) return fail(`${path} is open to others (mode ${mode.toString(8)})`, "keep others out", chmod);
  if ((mode & 0o700) !== 0o700) {
    return fail(`${path} cannot be written (mode ${mode.toString(8)})`, "permit yourself to write there", chmod);
  }
  return ok(`${path} is yours alone`);
}

function diskSpace({ settings }: DoctorContext): Finding {
  let at = settings.stateDirectory;
  for (;; at = join(at, "..")) {
    try {
      const { bavail, bsize } = statfsSync(at);
      const free = bavail * bsize;
      const text = `${(free / GIB).toFixed(1)} GiB free at ${settings.stateDirectory}`;
      const fix = "make room there, or set RBS_STATE_DIR to a larger disk before the orchestrator starts";
      return free < 0.5 * GIB ? fail(text, fix) : free < 5 * GIB ? warn(text, fix) : ok(text);
    } catch (e) {
      if (at === "/") return warn(`the free space cannot be determined (${sentence(e)})`);
    }
  }
}

const DAY_MS = 86_400_000;
/** Programs renew certificates long before this. */
const EXPIRY_WARNING_DAYS = 5;

function key({ settings, standing, self }: DoctorContext): Finding {
  const { stateDirectory } = settings;
  const place = keyDirectory(stateDirectory);
  const login = `${self} login`;
  if (standing.keyMissing && standing.nothingListens) return skip("there is none yet: the orchestrator makes it");
  if (standing.keyMissing && standing.local) {
    return fail(
      `there is none in ${place}, though something listens at ${settings.orchestrator}`,
      "set RBS_STATE_DIR to the state directory of that orchestrator; or, if it is another user's, ask for a token of " +
        "`orchestrator enrol` and log in",
      login,
    );
  }
  if (standing.keyMissing) {
    return fail(
      `there is none for ${settings.orchestrator} in ${place} yet`,
      "ask the operator of that orchestrator for a token of `orchestrator enrol`, and log in",
      login,
    );
  }
  try {
    const credentials = readValidCredentials(settings.stateDirectory);
    const user = userOf(credentials);
    const days = Math.floor((credentials.notAfter.getTime() - Date.now()) / DAY_MS);
    const text = `${user}'s certificate in ${holderFile(settings.stateDirectory, "user")} is valid for ${days} days`;
    return days < EXPIRY_WARNING_DAYS
      ? warn(text, "let the orchestrator of this machine run, or run jbazel login")
      : ok(text);
  } catch (e) {
    const found = unusable(e);
    return /expired at/.test(found.text) && !standing.local ? { ...found, command: login } : found;
  }
}

/** Matches a sentence that ends with what to do. */
const DEED = /^(.*?)(?:: |\. )((?:ask|correct|make|remove|run|see|set|start|use)\b.*?)\.?$/is;

/** The finding for an error, split into the problem and, mostly, the remedy. */
function unusable(e: unknown): Finding {
  const [, what, fix] = DEED.exec(sentence(e)) ?? [];
  return fail(what ?? sentence(e), fix);
}

/** An authority is not renewed automatically. */
const AUTHORITY_WARNING_DAYS = 30;

function authority({ settings, standing }: DoctorContext): Finding {
  if (standing.keyMissing) return skip("there is none yet: it comes with the key");
  const file = authoritiesFile(settings.stateDirectory);
  let text: string;
  try {
    text = readSecret(file);
  } catch (e) {
    return unusable(e);
  }
  const own = join(keyDirectory(settings.stateDirectory), "authority.pem");
  const fix = isFile(own)
    ? `move ${own} away and start the orchestrator of this machine again; users of others run jbazel login`
    : "ask the orchestrator's operator for a new authority and a token, then run jbazel login";
  let ends: number;
  try {
    // While an authority is being replaced, there are two.
    const all = text.match(/-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----/gs) ?? [];
    if (all.length === 0) return fail(`${file} holds no certificate`, fix);
    ends = Math.max(...all.map((pem) => new X509Certificate(pem).validToDate.getTime()));
  } catch (e) {
    return fail(`${file} cannot be used (${sentence(e)})`, fix);
  }
  const days = Math.floor((ends - Date.now()) / DAY_MS);
  if (days < 0) return warn(`the authority in ${file} expired at ${new Date(ends).toISOString()}`, fix);
  const found = `the authority in ${file} is valid for ${days} days`;
  return days < AUTHORITY_WARNING_DAYS ? warn(found, fix) : ok(found);
}

async function orchestrator(context: DoctorContext): Promise<Finding> {
  const { settings, standing, javabase } = context;
  if (standing.nothingListens) {
    return standing.keyMissing
      ? fail(
        `none runs on this machine yet (nothing listens at ${settings.orchestrator})`,
        "start one in the background; if your team has one, run `jbazel login` with a token of it instead",
        installCommand(javabase, settings.orchestrator),
      )
      : fail(
        `the one of this machine does not run (nothing listens at ${settings.orchestrator})`,
        "start it in the background; or, if it runs elsewhere, set RBS_ORCHESTRATOR_ADDR",
        installCommand(javabase, settings.orchestrator),
      );
  }
  if (standing.keyMissing) return skip("it was not asked: there is no key to come with");
  try {
    return await askOrchestrator(context);
  } catch (e) {
    if (!(e instanceof RbsError)) throw e;
    return unusable(e);
  }
}

async function askOrchestrator({ settings }: DoctorContext): Promise<Finding> {
  using session = new OrchestratorSession(settings);
  const { sessions } = await session.listSessions(undefined, 5_000);
  const ahead = sessions.flatMap((s) => s.lastHeartbeat ? [timestampMs(s.lastHeartbeat)] : []).find((t) =>
    t > Date.now() + 60_000
  );
  if (ahead !== undefined) {
    return warn(
      `${settings.orchestrator} answers, but its clock is ahead of this one's`,
      "set both clocks (timedatectl set-ntp true)",
    );
  }
  return ok(
    `${settings.orchestrator} answers and knows ${session.userId} (${sessions.length} session${
      sessions.length === 1 ? "" : "s"
    })`,
  );
}

function clock({ settings, javabase }: DoctorContext): Finding {
  for (
    const file of [
      join(javabase, "bin/java"),
      join(settings.stateDirectory, "sessions.sqlite"),
      holderFile(settings.stateDirectory, "user"),
    ]
  ) {
    try {
      const { mtime } = Deno.statSync(file);
      if (mtime && mtime.getTime() > Date.now() + 60_000) {
        return warn(
          `the clock is behind: ${file} was written at ${mtime.toISOString()}`,
          "set it (timedatectl set-ntp true)",
        );
      }
    } catch { /* not there: nothing to compare with */ }
  }
  return ok(new Date().toISOString());
}

/** The major version in the output of `--version`; 0 if there is none, as for Debian's build. */
const majorVersion = (text: string): number => Number(/(\d+)\.\d+/.exec(text)?.[1] ?? 0);

async function bazel({ run, uid }: DoctorContext): Promise<Finding> {
  const { outcome, code, stdout, stderr } = await run("bazel", ["--version"]);
  if (outcome === "missing") {
    const fix = INSTALL("bazel-bootstrap") + ", or install bazelisk";
    return fail("there is no bazel on PATH", fix, installLine("bazel-bootstrap", uid));
  }
  if (outcome === "timeout" || code !== 0) {
    return fail(`bazel --version fails (${(stderr || outcome).split("\n")[0]})`, "fix or reinstall it");
  }
  const name = stdout.split("\n").at(-1) || "bazel";
  return ok(name === "bazel no_version" ? "a bazel that does not tell its version, such as Debian's" : name);
}

/** The directory of Bazel's own files: its embedded JDK and its sandbox. */
async function installBase(context: DoctorContext): Promise<string | undefined> {
  const { workspace, options } = await rcOptions(context);
  const explicit = lastOption(options, "install_base")?.value;
  if (explicit) return explicit;
  const base = outputBase(workspace ?? "/", options, context.env);
  try {
    return Deno.realPathSync(join(base, "install"));
  } catch { /* Bazel has not run here yet */ }
  try {
    const root = join(base, "../install");
    const bases = [...Deno.readDirSync(root)].filter((e) => e.isDirectory).map((e) => join(root, e.name));
    const age = (path: string) => Deno.statSync(path).mtime?.getTime() ?? 0;
    return bases.sort((a, b) => age(b) - age(a))[0];
  } catch {
    return undefined;
  }
}

async function jdk(context: DoctorContext): Promise<Finding> {
  const base = await installBase(context);
  const embedded = base && join(base, "embedded_tools/jdk/bin/java");
  if (embedded && isFile(embedded)) return ok(`Bazel's own, ${embedded}`);
  const home = context.env("JAVA_HOME");
  if (home && !isFile(join(home, "bin/java"))) {
    return warn(`JAVA_HOME is ${home}, where there is no bin/java`, "set JAVA_HOME to a JDK, or unset it");
  }
  const { outcome, stderr } = await context.run("java", ["-version"]);
  if (outcome !== "ran") {
    if (home) return ok(`${home}, by JAVA_HOME`);
    // An upstream Bazel brings its own JDK and unpacks it on its first run.
    return base
      ? fail(
        "there is no JDK for Bazel",
        INSTALL("openjdk-17-jdk-headless"),
        installLine("openjdk-17-jdk-headless", context.uid),
      )
      : warn("no JDK on PATH; fine for a Bazel that brings its own", INSTALL("openjdk-17-jdk-headless"));
  }
  const version = /version "(?:1\.)?(\d+)/.exec(stderr)?.[1] ?? "?";
  const needed = majorVersion((await context.run("bazel", ["--version"])).stdout) >= 7 ? 21 : 11;
  const text = `JDK ${version}${home ? `, and ${home} by JAVA_HOME` : ""}`;
  return Number(version) < needed && !home
    ? warn(`${text}, but this Bazel needs ${needed}`, INSTALL(`openjdk-${needed}-jdk-headless`))
    : ok(text);
}

/** The command that makes a session's mount namespace, as nearly as a test can, for root and for others. */
function namespaceCommand(uid: number | null, program: string[]): [string, string[]] {
  const mounts = ["--die-with-parent", "--dev-bind", "/", "/", "--bind", "/tmp", "/tmp"];
  return uid === 0
    ? ["unshare", [
      "--mount",
      "--pid",
      "--fork",
      "--kill-child",
      "--mount-proc",
      "bwrap",
      ...mounts,
      "--bind",
      "/proc",
      "/proc",
      ...program,
    ]]
    : ["bwrap", [...mounts, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--proc", "/proc", ...program]];
}

const NAMESPACE_FALLBACK = "until then agents run without a mount namespace (see RBS_NAMESPACE)";

async function bubblewrap({ run }: DoctorContext): Promise<Finding> {
  const { outcome, stdout } = await run("bwrap", ["--version"]);
  return outcome === "ran" ? ok(stdout) : warn("there is no bwrap", `${INSTALL("bubblewrap")}; ${NAMESPACE_FALLBACK}`);
}

async function namespaces({ run, uid }: DoctorContext): Promise<Finding> {
  const result = await run(...namespaceCommand(uid, ["true"]));
  if (result.outcome === "missing") return skip("it was not tried: there is no bwrap");
  if (result.code === 0) return ok(`a mount namespace can be made${uid === 0 ? " (by root)" : ""}`);
  const fix = uid === 0
    ? "permit mounts in this container (CAP_SYS_ADMIN)"
    : "permit user namespaces (Debian: sysctl kernel.unprivileged_userns_clone=1; Ubuntu 24.04: sysctl " +
      "kernel.apparmor_restrict_unprivileged_userns=0)";
  return warn(
    `no mount namespace can be made (${result.stderr.split("\n")[0] || result.outcome})`,
    `${fix}; ${NAMESPACE_FALLBACK}`,
  );
}

async function sandbox(context: DoctorContext): Promise<Finding> {
  const base = await installBase(context);
  const program = base && join(base, "linux-sandbox");
  if (!program || !isFile(program)) return skip("it was not tried: Bazel has not unpacked its linux-sandbox yet");
  const result = await context.run(...namespaceCommand(context.uid, [program, "--", "/bin/true"]));
  if (result.outcome === "missing") return skip("it was not tried: there is no bwrap");
  return result.code === 0 ? ok("linux-sandbox works within the namespace") : warn(
    `linux-sandbox fails within the namespace (${
      result.stderr.split("\n").at(-1) || result.outcome
    }), so actions run in a weaker sandbox`,
    "fix the mount namespace first, if that fails too; in a container, permit nested user namespaces and a new /proc",
  );
}

async function compiler({ run, env }: DoctorContext): Promise<Finding> {
  const cc = env("CC");
  for (const program of ["gcc", "cc", "clang"]) {
    const { outcome, code, stdout } = await run(program, ["--version"]);
    if (outcome === "ran" && code === 0) return ok(stdout.split("\n")[0]);
  }
  return cc ? ok(`CC=${cc}`) : warn("there is no C++ compiler; only builds without C++ will do", INSTALL("g++"));
}

async function javabase(context: DoctorContext): Promise<Finding> {
  const state = inspectJavabase(context.javabase);
  const program = join(context.javabase, "bin/java");
  if (state === "another program") return fail(`${program} is not RBS's`, "set RBS_JAVABASE to RBS's javabase");
  const source = join(context.javabase, "../..");
  const compile = isFile(join(source, "deno.json")) ? `(cd ${shellWord(source)} && deno task compile)` : undefined;
  const anew = 'make it anew with "deno task compile"';
  if (state !== "ours") {
    return fail(`${program} is ${state}`, 'make it with "deno task compile", or set RBS_JAVABASE', compile);
  }
  // Without a Bazel client's arguments it prints what it is.
  const { outcome, stdout, stderr } = await context.run(program, []);
  if (outcome === "missing") return warn(`${program} is there, but this jbazel may not run it`);
  if (outcome === "timeout") return fail(`${program} does not answer`, anew, compile);
  return /^rbs: this program stands in for a Bazel server/m.test(stderr) ? ok(program) : fail(
    `${program} does not answer as RBS's (${(stderr || stdout).split("\n")[0] || "it says nothing"})`,
    anew,
    compile,
  );
}

async function rcLine(context: DoctorContext): Promise<Finding> {
  const { workspace, options, unfollowed } = await rcOptions(context);
  const found = lastOption(options, "server_javabase");
  if (!found && unfollowed) return warn(unfollowed);
  const setup = `${context.self} setup`;
  if (!found) {
    return warn(
      "no bazelrc names RBS's javabase: the stock bazel runs locally",
      'run "jbazel setup"; "jbazel build" works without',
      `${setup} ${workspace ? "--workspace" : "--home"}`,
    );
  }
  const state = inspectJavabase(found.value);
  if (state === "ours") return ok(`${found.file} names ${found.value}`);
  if (found.value === context.javabase) return skip(`${found.file} names the javabase that fails above`);
  if (state === "another program") {
    return warn(`${found.file} names ${found.value}, which is not RBS's`, 'remove that line, then run "jbazel setup"');
  }
  const which = found.file === join(workspace ?? "/", ".bazelrc")
    ? "--workspace"
    : found.file === join(context.env("HOME") ?? "/", ".bazelrc")
    ? "--home"
    : `--rc=${shellWord(found.file)}`;
  return fail(
    `${found.file} names ${found.value}, whose bin/java is ${state}`,
    'run "jbazel setup" anew, or with --remove',
    `${setup} ${which}`,
  );
}

function workspaceFound({ workingDirectory }: DoctorContext): Finding {
  const workspace = findWorkspace(workingDirectory);
  return workspace === undefined
    ? warn(
      `you are not within one (no ${WORKSPACE_MARKERS.join(", ")} here or above)`,
      "change to one, to have it checked too",
    )
    : ok(workspace);
}

async function leftovers(context: DoctorContext): Promise<Finding> {
  const { workspace, options } = await rcOptions(context);
  // A proxy ends when its workspace vanishes; one that has not is a leftover.
  const { stdout } = await context.run("ps", ["-A", "-ww", "-o", "pid=,args="]);
  const stale = stdout.split("\n").flatMap((line) => {
    const pid = /^\s*(\d+)/.exec(line)?.[1];
    const found = /--workspace_directory=(.*?) --/.exec(line)?.[1];
    return pid && found && line.includes("--server_javabase=") && !isDirectory(found) ? [`${pid} of ${found}`] : [];
  });
  if (stale.length) {
    return warn(
      `proxies still run for workspaces that are gone: ${stale.join(", ")}`,
      "end them",
      `kill ${stale.map((s) => s.split(" ")[0]).join(" ")}`,
    );
  }
  if (!workspace) return ok("none");
  const base = outputBase(workspace, options, context.env);
  const server = await findLocalServer(base);
  return server.pid && !server.listening
    ? warn(
      `${base}/server is left over from a server that was killed`,
      "nothing to do: the next bazel command replaces it",
    )
    : ok(server.listening ? `none (server ${server.pid} of this workspace is alive)` : "none");
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch (e) {
    // What may not be read may still exist.
    return !(e instanceof Deno.errors.NotFound);
  }
}

/** All checks, in the order in which a user fixes problems. */
export const CHECKS: Check[] = [
  ["loopback", loopback],
  ["localhost", localhost],
  ["clock", clock],
  ["state directory", stateDirectory],
  ["disk space", diskSpace],
  ["key", key],
  ["authority", authority],
  ["orchestrator", orchestrator],
  ["bazel", bazel],
  ["JDK", jdk],
  ["bubblewrap", bubblewrap],
  ["mount namespace", namespaces],
  ["nested sandbox", sandbox],
  ["C++ compiler", compiler],
  ["javabase", javabase],
  ["workspace", workspaceFound],
  ["bazelrc", rcLine],
  ["leftovers", leftovers],
];
