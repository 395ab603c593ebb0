import { createHash } from "node:crypto";
import { join } from "node:path";
import { serverAddress } from "../../proto/bazel/handshake_files.ts";
import { lastOption, type RcStartupOption } from "./rc_options.ts";

/**
 * The stock client's output base for a workspace, from rc files and the environment (Bazel 4.2.3 `blaze_util_linux.cc`;
 * later versions put XDG_CACHE_HOME before the home directory). Absolute path.
 */
export function outputBase(
  workspace: string,
  options: RcStartupOption[],
  env: (name: string) => string | undefined,
): string {
  const explicit = lastOption(options, "output_base")?.value;
  if (explicit) return explicit;
  const cache = env("TEST_TMPDIR") || join(env("XDG_CACHE_HOME") || join(env("HOME") ?? "/", ".cache"), "bazel");
  const root = lastOption(options, "output_user_root")?.value ??
    join(cache, `_bazel_${env("USER") || passwdName() || "unknown"}`);
  return join(root, createHash("md5").update(workspace, "utf8").digest("hex"));
}

/** This process's user name in /etc/passwd, which Bazel's client uses if USER is not set. */
function passwdName(): string | undefined {
  try {
    const uid = String(Deno.uid());
    return Deno.readTextFileSync("/etc/passwd").split("\n").map((line) => line.split(":")).find((f) => f[2] === uid)
      ?.[0];
  } catch {
    return undefined;
  }
}

/** What an output base says about its server. */
export interface LocalServer {
  /** Undefined if no server has left a pid file. */
  pid?: number;
  /** Whether it accepts connections. */
  listening: boolean;
  /** The javabase from which it was started; undefined for Bazel's own JVM. */
  javabase?: string;
}

/** Finds the server of an output base by its files and a connection to its port. */
export async function findLocalServer(base: string): Promise<LocalServer> {
  const read = (name: string): string | undefined => {
    try {
      return Deno.readTextFileSync(join(base, "server", name));
    } catch {
      return undefined;
    }
  };
  const pid = Number(read("server.pid.txt")) || undefined;
  const javabase = read("cmdline")?.split("\0").findLast((a) => a.startsWith("--server_javabase="))?.slice(18);
  const address = serverAddress(read("command_port") ?? "");
  let listening = false;
  if (pid && address) {
    try {
      using _connection = await Deno.connect({ hostname: address.host, port: address.port });
      listening = true;
    } catch { /* nothing listens */ }
  }
  return { pid, listening, javabase };
}
