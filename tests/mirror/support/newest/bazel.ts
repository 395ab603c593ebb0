/**
 * A Bazel of the newest generation, whole: a client and a server that do what those of 8.1 to 9.3 do, for what no Bazel
 * that can be had here does. Tests use it as any other Bazel.
 *
 *     bazel …  ──>  client/main.ts  ── daemonize ──>  <server_javabase>/bin/java: the proxy
 *                                                          │
 *     <install base>/embedded_tools/jdk/bin/java  <── agent ┘
 *          └──>  server/main.ts
 *
 * Both are one file each, beside a Deno of their own: they run where this repository is not to be seen.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Bazel } from "../../../support/bazels.ts";
import { ROOT } from "../../../support/repository.ts";
import { output } from "../../../support/run.ts";
import { tempDir } from "../../../support/temp_dir.ts";

/** What a client of such a Bazel has in its archive, and unpacks as its install base. */
export interface NewestBazel extends Bazel, AsyncDisposable {
  /** The same files in a folder of this name: as if another machine had this Bazel already. Its parent is for RBS_INSTALL_BASES. */
  installs: string;
  md5: string;
}

/** Starts a program that stays, and notes which process it is: `-l LOG -p PID_FILE -- PROGRAM ARGV[0] ARG…`. */
const DAEMONIZE = `#!/bin/sh
log=$2 pid=$4 program=$6
shift 7
setsid sh -c 'printf %s "$$" >"$0"; exec "$@"' "$pid" "$program" "$@" >"$log" 2>&1 </dev/null &
until [ -s "$pid" ] && [ "$(cat "$pid")" = "$!" ]; do sleep 0.01; done
`;

/** How Deno runs one file. */
const ALONE = "run --quiet --no-prompt --no-config --no-remote --no-npm --allow-all";

/** What stands for the JVM. It has the name that a JVM gets from its client. */
const JAVA = `#!/bin/bash
for word do case $word in --workspace_directory=*) workspace=\${word##*/} ;; --output_base=*) base=\${word#*=} ;; esac; done
export DENO_DIR=$base/server/deno DENO_NO_UPDATE_CHECK=1
lib=\${0%/*}/../lib
exec -a "bazel($workspace)" "$lib/deno" ${ALONE} "$lib/server.js" "$@"
`;

/** A sandbox that is none, for the agent's look at it. */
const LINUX_SANDBOX = `#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
`;

/** Makes one. All of it goes with the scope. */
export async function newestBazel(version = "9.3.0"): Promise<NewestBazel> {
  const directory = await tempDir("rbs-newest-");
  const md5 = createHash("md5").update(version).digest("hex");
  const installs = directory.join("installs"), archive = join(installs, md5), jdk = join(archive, "embedded_tools/jdk");
  await Deno.chmod(directory.path, 0o755);
  for (const folder of ["bin", "lib"]) await Deno.mkdir(join(jdk, folder), { recursive: true });
  const files: [path: string, content: string][] = [
    ["A-server.jar", "the double's server is in embedded_tools/jdk/lib\n"],
    ["build-label.txt", version],
    ["install_base_key", md5],
    ["daemonize", DAEMONIZE],
    ["linux-sandbox", LINUX_SANDBOX],
    ["embedded_tools/jdk/bin/java", JAVA],
  ];
  for (const [path, content] of files) await Deno.writeTextFile(join(archive, path), content, { mode: 0o755 });
  const deno = join(jdk, "lib/deno"), client = directory.join("client.js");
  await Deno.copyFile(Deno.execPath(), deno);
  await bundle("server/main.ts", join(jdk, "lib/server.js"));
  await bundle("client/main.ts", client);
  const path = directory.join("bazel");
  const script = `#!/bin/sh
export DENO_DIR='${directory.join("deno")}' DENO_NO_UPDATE_CHECK=1
exec ${deno} ${ALONE} '${client}' '${archive}' ${version} ${md5} "$0" "$@"
`;
  await Deno.writeTextFile(path, script, { mode: 0o755 });
  return { version, path, bazelrc: [], installs, md5, [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose]() };
}

/** Makes a program one file. */
async function bundle(entry: string, to: string): Promise<void> {
  const from = join(import.meta.dirname!, entry);
  await output([Deno.execPath(), "bundle", "--quiet", "--frozen", "--platform", "deno", "-o", to, from], { cwd: ROOT });
}
