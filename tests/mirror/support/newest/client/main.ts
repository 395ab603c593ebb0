/**
 * A stock client of Bazel 9.3, as far as RBS can see it: what it unpacks and locks, which server it looks for, starts and
 * ends, and what it says to it. Written from what its source and its behaviour tell (`src/main/cpp`), and with gRPC of its
 * own, so that it does not share the faults of what it tests.
 *
 * Arguments: the folder of its archive, its version, its install_md5, its own name, and then the user's.
 */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { communicate } from "./command.ts";
import { ensureInstallBase, lockInstallBase } from "./install_base.ts";
import { readRcFile } from "./rc_files.ts";
import { ensureServer, Fatal } from "./server_process.ts";
import { ExitCode } from "../messages.ts";
import { readStartupOptions } from "./startup_options.ts";

const [directory, version, md5, binary, ...args] = Deno.args;
const archive = { directory, version, md5 };

async function main(): Promise<number> {
  if (args[0] === "--version") {
    console.log(`bazel ${version}`);
    return 0;
  }
  const cwd = Deno.cwd(), workspace = findWorkspace(cwd);
  if (!workspace) throw new Fatal("The double of a client works in a workspace only.", ExitCode.COMMAND_LINE_ERROR);
  const rc = readRcFile(workspace, version);
  const digest = createHash("md5").update(workspace).digest("hex");
  const { startup, command } = readStartupOptions(args, { workspace, archive, rc, digest });
  for (const folder of [startup.outputUserRoot, startup.outputBase]) Deno.mkdirSync(folder, { recursive: true });
  const lock = await outputBaseLock(startup.outputBase);
  await ensureInstallBase(startup, archive);
  await lockInstallBase(startup);
  writeLogSettings(startup.outputBase);
  const { server, restartReason } = await ensureServer(startup, { version, command: command[0] });
  if (!server) return 0;
  using _server = server;
  return await communicate(server, {
    startup,
    typed: command,
    rc,
    restartReason,
    cwd,
    binary,
    onSent: () => lock.close(),
  });
}

/** A folder with one of these files is a workspace since 9.0, which knows no WORKSPACE any more. */
function findWorkspace(from: string): string | undefined {
  for (let folder = from;; folder = dirname(folder)) {
    for (const name of ["MODULE.bazel", "REPO.bazel"]) {
      try {
        if (Deno.statSync(join(folder, name)).isFile) return folder;
      } catch { /* the next */ }
    }
    if (folder === "/") return undefined;
  }
}

/** `<output base>/lock`, which the client holds until its request was sent. */
async function outputBaseLock(outputBase: string): Promise<Deno.FsFile> {
  const lock = Deno.openSync(`${outputBase}/lock`, { read: true, write: true, create: true });
  await lock.lock(true);
  lock.truncateSync();
  lock.writeSync(new TextEncoder().encode(`pid=${Deno.pid}\nowner=client\ncwd=${Deno.cwd()}\ntty=\n`));
  return lock;
}

function writeLogSettings(outputBase: string): void {
  const handler = "com.google.devtools.build.lib.util.SimpleLogHandler";
  const lines = [`handlers=${handler}`, ".level=INFO", `${handler}.prefix=${outputBase}/java.log`, ""];
  Deno.writeTextFileSync(`${outputBase}/javalog.properties`, lines.join("\n"));
}

let code: number;
try {
  code = await main();
} catch (error) {
  console.error(`FATAL: ${error instanceof Fatal ? error.message : (error as Error).stack}`);
  code = error instanceof Fatal ? error.exitCode : ExitCode.LOCAL_ENVIRONMENTAL_ERROR;
}
Deno.exit(code);
