/** From the exec of `bin/java` to its first answered Ping: our proxy against the JVM, with the argument vector of a real client. */
import { join } from "node:path";
import { PROGRAMS } from "../support/repository.ts";
import { output } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import type { TestWorkspace } from "../support/workspace.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { interleaved, median, ms, type Result } from "./report.ts";

/** Starts a server in a fresh output base as the client would, and returns the milliseconds to its first answer. */
async function firstPing(
  java: string,
  argv: readonly string[],
  workspace: string,
  env: Record<string, string>,
): Promise<number> {
  await using base = await tempDir("rbs-bench-");
  const own = argv.map((a) => a.replaceAll("@OUTPUT_BASE@", base.path));
  await Deno.mkdir(join(base.path, "server"));
  const began = performance.now();
  // daemonize's part: the pid file without a newline, then exec.
  const child = new Deno.Command("/bin/sh", {
    args: ["-c", 'printf %s $$ > "$0/server/server.pid.txt"; exec "$@"', base.path, java, ...own],
    cwd: workspace,
    env,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    for (;;) {
      let address = "", cookie = "";
      try {
        address = await Deno.readTextFile(join(base.path, "server/command_port"));
        cookie = await Deno.readTextFile(join(base.path, "server/request_cookie"));
      } catch { /* not yet */ }
      const at = address.lastIndexOf(":");
      if (at > 0 && cookie) {
        using connection = new Connection(address.slice(0, at).replace(/[[\]]/g, ""), Number(address.slice(at + 1)));
        const { code } = await connection.unary("/command_server.CommandServer/Ping", encodeFields([[1, cookie]]), {
          timeoutMs: 5_000,
        });
        if (code === 0) return performance.now() - began;
      }
      if (performance.now() - began > 60_000) throw new Error(`${java} did not answer within a minute`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  } finally {
    child.kill("SIGKILL");
    await child.status;
  }
}

export async function benchHandshake(
  direct: TestWorkspace,
  env: Record<string, string>,
  say: (s: string) => void,
): Promise<Result[]> {
  const outputBase = (await output(direct.argv(["info", "output_base"]), { cwd: direct.path, env: direct.env })).trim();
  const cmdline = (await Deno.readTextFile(join(outputBase, "server/cmdline"))).split("\0").slice(1);
  const argv = cmdline.map((a) => a.replaceAll(outputBase, "@OUTPUT_BASE@"));
  const option = (name: string) => argv.find((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3);
  const embedded = `${option("install_base")}/embedded_tools/jdk/bin/java`;
  const jvm = await Deno.stat(embedded).then(() => embedded, () => `${option("default_system_javabase")}/bin/java`);
  const [real, proxy] = await interleaved(9, 1, [
    () => firstPing(jvm, argv, direct.path, {}),
    () => firstPing(`${PROGRAMS.javabase}/bin/java`, argv, direct.path, env),
  ], (round) => say(`first Ping, round ${round}`));
  const [a, b] = [median(real), median(proxy)];
  return [{
    what: "exec of bin/java to first answered Ping",
    measured: `JVM ${ms(a)}, proxy ${ms(b)}, ratio ${(b / a).toFixed(2)}`,
    target: "ratio ≤ 0.20 and < 100 ms",
    reached: b / a <= 0.2 && b < 100,
  }];
}
