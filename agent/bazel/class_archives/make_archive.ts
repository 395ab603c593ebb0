/**
 * Makes a class-data archive: what a Bazel server has loaded that ran some commands (JEP 350, "dynamic CDS").
 *
 * Whoever can write an archive decides what the JVMs do that map it. So it is not made of a session's own server, to which
 * the session's programs can do anything, but of one that the agent starts for it: in a namespace with nothing but the
 * machine's system folders, the install base and the JDK, all read-only; without a network; on a workspace of its own.
 */
import { dirname, join } from "node:path";
import { encodeFields, scanFields, varintValue } from "../../../proto/base/protobuf_fields.ts";
import { RbsError } from "../../../proto/base/errors.ts";
import { RequestField } from "../../../proto/bazel/run_request.ts";
import { startupOption } from "../../../proto/bazel/startup_options.ts";
import { ResponseField } from "../../../proto/bazel/run_response.ts";
import { type NamespaceKind, SessionNamespace } from "../../namespace/mount_namespace.ts";
import type { ResourceLimits } from "../../namespace/resource_limits.ts";
import { syncedRoot } from "../../namespace/storage_folder.ts";
import { BazelServer } from "../bazel_server.ts";
import { COMMAND_SERVER } from "../bazel_upstream.ts";
import { withOutputBase } from "../server_argv.ts";
import { javaHome, type ServerStart, withoutWrites } from "./archive_key.ts";

/** What {@link makeArchive} works with. */
export interface MakeArchiveOptions {
  /** The server whose classes they shall be. */
  readonly start: ServerStart;
  /** A folder of its own, which is there and empty. Absolute. */
  readonly storageDirectory: string;
  readonly kind: NamespaceKind;
  /** As for a session. */
  readonly hidden: readonly string[];
  readonly limits?: ResourceLimits;
  /** Gives it up at once, and ends all that runs for it. */
  readonly signal: AbortSignal;
}

/** Where things are in the namespace. No system folder, and nobody's. */
const HOME = "/home/rbs";
const WORKSPACE = `${HOME}/workspace`, OUTPUT_BASE = `${HOME}/output`;
const ARCHIVE = "classes.jsa";

/** Rule sets that Bazel's own tools load, which Bazels before 5 have built in under these names. */
const RULE_SETS: Readonly<Record<string, readonly string[]>> = {
  "rules_cc/cc": "cc_binary cc_library cc_test cc_proto_library cc_toolchain cc_toolchain_suite objc_library".split(
    " ",
  ),
  "rules_java/java": "binary import library plugin proto_library runtime test toolchain".split(" ")
    .map((rule) => `java_${rule}`),
  "rules_proto/proto": ["proto_lang_toolchain", "proto_library"],
};

/** They stand in for what would be downloaded. */
const REPOSITORIES: Record<string, string> = {
  "stubs/remote_coverage_tools/WORKSPACE": "",
  "stubs/remote_coverage_tools/tool.sh": "#!/bin/sh\n",
  "stubs/remote_coverage_tools/BUILD": ["coverage_report_generator", "lcov_merger"]
    .map((name) => `sh_binary(name = "${name}", srcs = ["tool.sh"], visibility = ["//visibility:public"])\n`).join(""),
};
for (const [path, rules] of Object.entries(RULE_SETS)) {
  REPOSITORIES[`stubs/${dirname(path)}/WORKSPACE`] = REPOSITORIES[`stubs/${path}/BUILD`] = "";
  REPOSITORIES[`stubs/${path}/defs.bzl`] = rules
    .map((rule) => `def ${rule}(**attributes):\n    native.${rule}(**attributes)\n`).join("\n");
}
const OVERRIDES = [...Object.keys(RULE_SETS).map(dirname), "remote_coverage_tools"]
  .map((name) => `--override_repository=${name}=${WORKSPACE}/stubs/${name}`);

/** What is built. The rules of the workspace's root need nothing, whatever Bazel it is. */
const FILES: Readonly<Record<string, string>> = {
  ...REPOSITORIES,
  "WORKSPACE": "",
  "MODULE.bazel": "",
  "rules.bzl": `def _impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(outputs = [out], inputs = ctx.files.srcs, command = "echo hello >$1", arguments = [out.path])
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

text = rule(implementation = _impl, attrs = {"srcs": attr.label_list(allow_files = True)})

def _test(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(out, "#!/bin/sh\\n", is_executable = True)
    return [DefaultInfo(executable = out)]

text_test = rule(implementation = _test, test = True)
`,
  "BUILD": `load(":rules.bzl", "text", "text_test")

text(name = "first", srcs = glob(["*.bzl"]))
text(name = "second", srcs = [":first"])
text_test(name = "test")
filegroup(name = "all", srcs = [":second"])
`,
  "cc/BUILD": `cc_library(name = "library", srcs = ["library.cc"])
cc_binary(name = "binary", srcs = ["binary.cc"], deps = [":library"])
sh_test(name = "test", srcs = ["test.sh"])
genrule(name = "text", outs = ["text.txt"], cmd = "echo hello >$@")
`,
  "cc/library.cc": "int one() { return 1; }\n",
  "cc/binary.cc": "int main() { return 0; }\n",
  "cc/test.sh": "#!/bin/sh\n",
};

/** Older Bazels know one of these, newer ones the other, and some neither: which it is shows by trying. */
const WITHOUT_MODULES = [["--noenable_bzlmod"], ["--noenable_bzlmod", "--enable_workspace"], []];

/**
 * What developers begin with. What fails, since this Bazel has its rules elsewhere, say, has loaded classes all the same.
 * The last one changes nothing, and is the way of most commands.
 */
const COMMANDS = [
  ["info"],
  ["build", "//:all", "//:test"],
  ["build", "--keep_going", ...OVERRIDES, "//:all", "//cc:all"],
  ["test", "--keep_going", ...OVERRIDES, "//:test", "//cc:test"],
  ["query", ...OVERRIDES, "deps(//:all)"],
  ["build", "--keep_going", ...OVERRIDES, "//:all", "//cc:all"],
];

/** Bazel's exit code for options that it does not know. */
const BAD_COMMAND_LINE = 2;
/** For all of it. Milliseconds. */
const PATIENCE_MS = 10 * 60_000;

/**
 * Makes an archive. Rejects with an RbsError, or the signal's reason; nothing of it runs then.
 *
 * @returns its path, in the storage
 */
export async function makeArchive(options: MakeArchiveOptions): Promise<string> {
  const { start, storageDirectory, kind, hidden, limits } = options;
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(PATIENCE_MS)]);
  const jdk = new Set([dirname(dirname(start.java)), javaHome(start.java)]);
  const namespace = new SessionNamespace({
    ...{ kind, storageDirectory, outputBase: OUTPUT_BASE, workspace: WORKSPACE, limits },
    unshareNet: true,
    givesWay: true,
    synced: { workspace: WORKSPACE, visible: [start.installBase, ...jdk], hidden },
  });
  const bazel = new BazelServer({
    namespace,
    workspace: WORKSPACE,
    startupOptions: ownOptions(start.argv),
    installBases: [start.installBase],
    jvmOptions({ java }) {
      if (java !== start.java) {
        throw new RbsError(`Another JDK than that of ${start.java} is found in a clean namespace.`);
      }
      return [`-XX:ArchiveClassesAtExit=${OUTPUT_BASE}/${ARCHIVE}`];
    },
    // It gives way to all others.
    startTimeoutMs: PATIENCE_MS,
  });
  const end = () => void namespace.close();
  signal.addEventListener("abort", end);
  try {
    signal.throwIfAborted();
    await namespace.init();
    for (const [name, text] of Object.entries(FILES)) {
      const path = join(syncedRoot(storageDirectory), WORKSPACE, name);
      await Deno.mkdir(join(path, ".."), { recursive: true });
      await Deno.writeTextFile(path, text);
    }
    const { connection, requestCookie, exited } = await bazel.ensure();
    const run = async (args: readonly string[]): Promise<number> => {
      const call = await connection.call(`${COMMAND_SERVER}Run`);
      call.send(encodeFields([
        [RequestField.cookie, requestCookie],
        ...clientArguments(args).map((arg): [number, string] => [RequestField.arg, arg]),
        [RequestField.blockForLock, true],
        [RequestField.clientDescription, "pid=1"],
      ]));
      call.end();
      let exitCode = -1;
      for await (const response of call.responses()) {
        scanFields(response, (f) => {
          if (f.number === ResponseField.exitCode) exitCode = varintValue(response, f);
        });
      }
      return exitCode;
    };
    let more: readonly string[] = [];
    for (more of WITHOUT_MODULES) if (await run(["info", ...more, "release"]) !== BAD_COMMAND_LINE) break;
    for (const [command, ...args] of COMMANDS) await run([command, ...more, ...args]);
    await run(["shutdown"]);
    // As it ends, it writes.
    await ended(exited, signal);
    const made = join(namespace.storageOutputBase, ARCHIVE);
    const { size, isFile } = await Deno.lstat(made).catch(() => ({ size: 0, isFile: false }));
    if (!isFile || size === 0) throw new RbsError(`The JVM of ${start.java} makes no class-data archive.`);
    return made;
  } catch (e) {
    options.signal.throwIfAborted();
    throw e;
  } finally {
    signal.removeEventListener("abort", end);
    await namespace.close();
  }
}

/** A session's server's arguments, for one in this namespace. */
function ownOptions(argv: readonly string[]): string[] {
  const places = { workspace_directory: WORKSPACE, output_base: OUTPUT_BASE, output_user_root: HOME };
  const formerBase = startupOption(argv, "output_base");
  const options = formerBase === undefined ? argv : withOutputBase(argv, formerBase, OUTPUT_BASE);
  return withoutWrites(options).map((option) => {
    const [, name] = /^--(\w+)=/.exec(option) ?? [];
    const place = name !== undefined && places[name as keyof typeof places];
    return place ? `--${name}=${place}` : option;
  });
}

/** A command line as a client in a terminal composes it. */
function clientArguments([command, ...args]: readonly string[]): string[] {
  return [
    command,
    "--rc_source=client",
    "--default_override=0:common=--isatty=1",
    "--default_override=0:common=--terminal_columns=80",
    ...args,
    `--client_cwd=${WORKSPACE}`,
    "--client_env=PATH=/usr/bin:/bin",
  ];
}

function ended(exited: AbortSignal, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = () => signal.aborted ? reject(signal.reason) : resolve();
    for (const each of [exited, signal]) each.addEventListener("abort", done, { once: true });
    if (exited.aborted || signal.aborted) done();
  });
}
