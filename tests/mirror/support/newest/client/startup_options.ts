/** The client's startup options, and the arguments of the server that it composes of them. */
import { join } from "node:path";
import type { RcOption } from "./rc_files.ts";

/** What the client was told before its command. */
export interface Startup {
  outputUserRoot: string;
  outputBase: string;
  installBase: string;
  installMd5: string;
  workspace: string;
  serverJavabase: string;
  hostJvmArgs: string[];
  maxIdleSeconds: number;
  blockForLock: boolean;
  /** `--block_for_lock=5s`. */
  lockTimeoutMs?: number;
  quiet: boolean;
  clientDebug: boolean;
  cgroupParent?: string;
  /** As they were given, with the file that had them; empty for the command line. */
  given: { option: string; source: string }[];
}

/** What stands in the client's own archive. */
export interface Archive {
  directory: string;
  version: string;
  md5: string;
}

/** Reads the options before the command. @returns the command and its arguments as well */
export function readStartupOptions(
  args: readonly string[],
  { workspace, archive, rc, digest }: { workspace: string; archive: Archive; rc: RcOption[]; digest: string },
): { startup: Startup; command: string[] } {
  const end = args.findIndex((arg) => !arg.startsWith("-"));
  const typed = args.slice(0, end < 0 ? args.length : end);
  const given = [
    ...rc.filter(({ section }) => section === "startup").map(({ word, file }) => ({ option: word, source: file })),
    ...typed.map((option) => ({ option, source: "" })),
  ];
  const values = (name: string) =>
    given.filter(({ option }) => option.startsWith(`--${name}=`)).map(({ option }) => option.slice(name.length + 3));
  const last = (name: string) => values(name).at(-1);
  const isOn = (name: string, otherwise: boolean) => {
    const found = given.findLast(({ option }) => option === `--${name}` || option === `--no${name}`);
    return found ? found.option === `--${name}` : otherwise;
  };
  const outputUserRoot = last("output_user_root") ?? join(Deno.env.get("HOME")!, ".cache/bazel/_bazel_test");
  const timeout = last("block_for_lock");
  return {
    command: end < 0 ? ["help"] : args.slice(end),
    startup: {
      outputUserRoot,
      outputBase: last("output_base") ?? join(outputUserRoot, digest),
      installBase: last("install_base") ?? join(outputUserRoot, "install", archive.md5),
      installMd5: archive.md5,
      workspace,
      serverJavabase: last("server_javabase") ?? "",
      hostJvmArgs: values("host_jvm_args"),
      maxIdleSeconds: Number(last("max_idle_secs") ?? 10_800),
      blockForLock: isOn("block_for_lock", true),
      lockTimeoutMs: timeout === undefined ? undefined : 1000 * parseFloat(timeout),
      quiet: isOn("quiet", false),
      clientDebug: isOn("client_debug", false),
      cgroupParent: last("experimental_cgroup_parent"),
      given,
    },
  };
}

/**
 * The server's arguments after argv[0] (Bazel 9.3, `src/main/cpp/blaze.cc` and `startup_options.cc`): beside 7.x's there are
 * `--lock_install_base`, which is on by default, and perhaps a control group; `--watchfs`, `--expand_configs_in_place`,
 * `--host_jvm_profile` and `-XX:HeapDumpPath` are not there any more.
 */
export function serverArguments(startup: Startup): string[] {
  const { installBase, outputBase } = startup;
  const handler = "com.google.devtools.build.lib.util.SimpleLogHandler";
  return [
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "-Xverify:none",
    `-Djava.util.logging.config.file=${outputBase}/javalog.properties`,
    `-Dcom.google.devtools.build.lib.util.LogHandlerQuerier.class=${handler}$HandlerQuerier`,
    "-XX:-MaxFDLimit",
    `-Djava.library.path=${installBase}/embedded_tools/jdk/lib:${installBase}/`,
    "-Dfile.encoding=ISO-8859-1",
    "-Duser.country=",
    "-Duser.language=",
    "-Duser.variant=",
    ...startup.hostJvmArgs,
    "-jar",
    `${installBase}/A-server.jar`,
    `--max_idle_secs=${startup.maxIdleSeconds}`,
    "--noshutdown_on_low_sys_mem",
    "--connect_timeout_secs=30",
    `--output_user_root=${startup.outputUserRoot}`,
    `--install_base=${installBase}`,
    `--install_md5=${startup.installMd5}`,
    "--lock_install_base",
    `--output_base=${outputBase}`,
    `--workspace_directory=${startup.workspace}`,
    "--default_system_javabase=",
    `--failure_detail_out=${outputBase}/failure_detail.rawproto`,
    "--idle_server_tasks",
    "--write_command_log",
    "--nofatal_event_bus_exceptions",
    "--nowindows_enable_symlinks",
    `--client_debug=${startup.clientDebug}`,
    ...startup.serverJavabase ? [`--server_javabase=${startup.serverJavabase}`] : [],
    ...startup.hostJvmArgs.map((arg) => `--host_jvm_args=${arg}`),
    ...startup.cgroupParent ? [`--experimental_cgroup_parent=${startup.cgroupParent}`] : [],
    "--product_name=Bazel",
    `--option_sources=${
      startup.given.map(({ option, source }) => {
        const name = option.replace(/^--(no)?/, "").replace(/=.*$/s, "");
        return [name, source].map((text) => text.replaceAll("_", "_U").replaceAll(":", "_C")).join(":");
      }).join(":")
    }`,
  ];
}

/** Options by whose change no server is ended (Bazel 9.3, `src/main/cpp/blaze.cc`). */
const VOLATILE =
  /^(--(option_sources|max_idle_secs|connect_timeout_secs|local_startup_timeout_secs|client_debug|preemptible)=|-XX:HeapDumpPath=)/;

/** Whether a server that was started with `running` is not the one that is wanted. */
export function wantsAnother(running: readonly string[], wanted: readonly string[]): boolean {
  const counted = (args: readonly string[]) => args.filter((arg) => !VOLATILE.test(arg)).toSorted().join("\0");
  return counted(running) !== counted(wanted);
}
