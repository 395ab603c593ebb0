/** The commands of the double of a server: one after the other, each with an id by which it is cancelled. */
import { join, resolve } from "node:path";
import { encodeFields } from "../../../../../proto/base/protobuf_fields.ts";
import { buildTarget, type Built, type Places, prepareWorkspace, removeConvenienceSymlinks } from "./build.ts";
import { buildEvents, groupMode } from "./build_events.ts";
import { Exec, ExitCode, Fields, Response, Run, TOMORROW } from "../messages.ts";

/** Larger pieces of output are cut (`RpcOutputStream`). Bytes. */
const PIECE_BYTES = 8192;

/** Fields of a response behind cookie and command id. */
export type ResponseFields = Parameters<typeof encodeFields>[0];

/** Where a command's responses go. */
export interface Caller {
  respond(fields: ResponseFields): void;
  gone: AbortSignal;
}

/** A Run request. */
export interface RunCommand {
  name: string;
  /** All of them, the client's own as well. */
  args: string[];
  /** What the user typed. */
  typed: string[];
  blockForLock: boolean;
  lockTimeoutMs: number;
  client: string;
  quiet: boolean;
}

/** Reads a Run request. */
export function readRunRequest(request: Fields): RunCommand {
  const [name = "", ...args] = request.all(Run.arg).map(String);
  const cwd = args.findIndex((arg) => arg.startsWith("--client_cwd="));
  return {
    name,
    args,
    typed: args.slice(cwd + 1),
    blockForLock: request.number(Run.blockForLock) !== 0,
    lockTimeoutMs: request.number(Run.lockTimeoutMs) || Infinity,
    client: request.text(Run.clientDescription),
    quiet: request.number(Run.quiet) !== 0,
  };
}

/** A command that is being done. */
interface Running {
  id: string;
  cancelled: AbortController;
}

export class Commands {
  readonly #places: Places;
  readonly #installBase: string;
  readonly #version: string;
  readonly #running = new Map<string, Running>();
  /** Who has the lock of commands. */
  #owner?: { client: string; over: Promise<void> };

  constructor(places: Places, installBase: string, version: string) {
    this.#places = places;
    this.#installBase = installBase;
    this.#version = version;
  }

  /** Ends a command; unknown ids mean nothing. */
  cancel(id: string): void {
    this.#running.get(id)?.cancelled.abort();
  }

  /** Whether such a command runs: a size is kept for it. */
  knows(id: string): boolean {
    return this.#running.has(id);
  }

  /** Does a command to its end. @returns whether the server is to end as well, and with which code */
  async run(command: RunCommand, caller: Caller): Promise<number | undefined> {
    const running = { id: crypto.randomUUID(), cancelled: new AbortController() };
    const tomorrow: ResponseFields = command.typed.includes(TOMORROW.option)
      ? [[TOMORROW.responseField, "of tomorrow"]]
      : [];
    const respond = (...fields: ResponseFields) =>
      caller.respond([...fields, [Response.commandId, running.id], ...tomorrow]);
    const print = (text: string, field: number = Response.standardError) => {
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length; at += PIECE_BYTES) respond([field, bytes.subarray(at, at + PIECE_BYTES)]);
    };
    this.#running.set(running.id, running);
    respond();
    const finish = (exitCode: number, ...more: ResponseFields) =>
      respond([Response.finished, true], [Response.exitCode, exitCode], ...more);
    const held = await this.#lock(command, running.cancelled.signal);
    if (typeof held === "string") {
      print(held);
      finish(ExitCode.LOCK_HELD);
      this.#running.delete(running.id);
      return undefined;
    }
    try {
      const info = command.quiet ? () => {} : print;
      return await this.#act(command, { print, info, finish, cancelled: running.cancelled.signal });
    } catch (error) {
      if (running.cancelled.signal.aborted) {
        print("ERROR: build interrupted\n");
        // FailureDetail: a message, and `interrupted` with its code.
        finish(ExitCode.INTERRUPTED, [Response.failureDetail, encodeFields([[1, "build interrupted"]])]);
      } else {
        print(`ERROR: ${(error as Error).message}\n`);
        finish(ExitCode.COMMAND_LINE_ERROR);
      }
      return undefined;
    } finally {
      this.#running.delete(running.id);
      held[Symbol.dispose]();
    }
  }

  /** Takes the lock of commands, or says why it is not to be had (`BlazeCommandDispatcher.java`). */
  async #lock(command: RunCommand, cancelled: AbortSignal): Promise<Disposable | string> {
    const began = performance.now();
    while (this.#owner) {
      const { client, over } = this.#owner;
      if (!command.blockForLock) return `Another command (${client}) is running. Exiting immediately.\n`;
      const left = command.lockTimeoutMs - (performance.now() - began);
      if (left <= 0) return `Another command (${client}) is still running after ${command.lockTimeoutMs} ms.\n`;
      const late = Promise.withResolvers<void>();
      const timer = setTimeout(late.resolve, Math.min(left, 2 ** 31 - 1));
      await Promise.race([over, late.promise, aborted(cancelled)]);
      clearTimeout(timer);
      if (cancelled.aborted) break;
    }
    const over = Promise.withResolvers<void>();
    const owner = this.#owner = { client: command.client, over: over.promise };
    return {
      [Symbol.dispose]: () => {
        if (this.#owner === owner) this.#owner = undefined;
        over.resolve();
      },
    };
  }

  async #act(command: RunCommand, done: {
    print(text: string, field?: number): void;
    info(text: string): void;
    finish(exitCode: number, ...more: ResponseFields): void;
    cancelled: AbortSignal;
  }): Promise<number | undefined> {
    const { print, info, finish, cancelled } = done;
    const words = command.typed.filter((arg) => !arg.startsWith("--"));
    switch (command.name) {
      case "shutdown":
        finish(ExitCode.SUCCESS, [Response.terminationExpected, true]);
        return ExitCode.SUCCESS;
      case "crash":
        // No command of Bazel's: what a server says that has met an error of its own.
        print("FATAL: bazel crashed due to an internal error.\n");
        finish(ExitCode.INTERNAL_ERROR, [Response.terminationExpected, true]);
        return ExitCode.INTERNAL_ERROR;
      case "info": {
        const items = Object.entries(this.#info()).filter(([key]) => words.length === 0 || words.includes(key));
        const text = words.length === 1
          ? `${items[0]?.[1] ?? ""}\n`
          : items.map(([key, value]) => `${key}: ${value}\n`).join("");
        print(text, Response.standardOutput);
        finish(ExitCode.SUCCESS, [Response.commandExtensions, infoResponse(items)]);
        return undefined;
      }
      case "clean":
        await Deno.remove(join(this.#places.execRoot, "bazel-out"), { recursive: true }).catch(() => {});
        await removeConvenienceSymlinks(this.#places);
        info("INFO: Starting clean.\n");
        finish(ExitCode.SUCCESS);
        return undefined;
      case "build":
      case "run":
        await this.#build(command, { words, print, info, finish, cancelled });
        return undefined;
      default:
        throw new Error(`Command '${command.name}' not found. Try 'bazel help'.`);
    }
  }

  #info(): Record<string, string> {
    const { workspace, outputBase, execRoot, bin, outputUserRoot } = this.#places;
    return {
      "bazel-bin": bin,
      execution_root: execRoot,
      install_base: this.#installBase,
      output_base: outputBase,
      output_path: join(execRoot, "bazel-out"),
      release: `release ${this.#version}`,
      repository_cache: join(outputUserRoot, "cache/repos/v1"),
      server_log: join(outputBase, "java.log"),
      server_pid: String(Deno.pid),
      workspace,
    };
  }

  async #build(command: RunCommand, { words, print, info, finish, cancelled }: {
    words: string[];
    print(text: string): void;
    info(text: string): void;
    finish(exitCode: number, ...more: ResponseFields): void;
    cancelled: AbortSignal;
  }): Promise<void> {
    const places = this.#places;
    const { name, args } = command;
    const targets = name === "run" ? words.slice(0, 1) : words;
    prepareWorkspace(places);
    const environment = { PATH: clientVariable(args, "PATH") ?? "/bin:/usr/bin" };
    const built: Built[] = [];
    try {
      for (const target of targets) built.push(await buildTarget(target, places, { cancelled, print, environment }));
    } finally {
      const events = args.findLast((arg) => arg.includes("--build_event_binary_file="))?.replace(
        /^.*_binary_file=/,
        "",
      );
      if (events) Deno.writeFileSync(events, buildEvents(places.execRoot, built, groupMode(args, "default")));
    }
    if (built.some(({ success }) => !success)) {
      print("ERROR: Build did NOT complete successfully\n");
      return finish(ExitCode.BUILD_FAILED);
    }
    info(`INFO: Build completed successfully, ${built.length} total action${built.length === 1 ? "" : "s"}\n`);
    if (name === "build") return finish(ExitCode.SUCCESS);
    const { executable } = built[0];
    if (!executable) throw new Error(`Cannot run target ${targets[0]}: Not executable`);
    const residue = command.typed.slice(command.typed.indexOf(targets[0]) + 1).filter((arg) => arg !== "--");
    const script = command.typed.findLast((arg) => arg.startsWith("--script_path="))?.slice("--script_path=".length);
    if (script !== undefined) {
      Deno.writeTextFileSync(resolve(places.workspace, script), scriptOf(executable, residue), { mode: 0o755 });
    }
    finish(ExitCode.SUCCESS, [Response.execRequest, this.#execRequest(executable, { residue, args, script })]);
  }

  /** What `run` has the client execute (Bazel 9.3, `RunCommand.java`). */
  #execRequest(
    executable: string,
    { residue, args, script }: { residue: string[]; args: string[]; script?: string },
  ): Uint8Array {
    const { workspace, outputBase, execRoot } = this.#places;
    const cwd = args.find((arg) => arg.startsWith("--client_cwd="))!.slice("--client_cwd=".length);
    const environment = {
      BUILD_EXECROOT: execRoot,
      BUILD_ID: crypto.randomUUID(),
      BUILD_WORKING_DIRECTORY: cwd,
      BUILD_WORKSPACE_DIRECTORY: workspace,
    };
    const replaced: [type: number, value: string][] = [[1, outputBase], [2, cwd], [3, workspace]];
    const cleared = [
      "JAVA_RUNFILES",
      "RUNFILES_DIR",
      "RUNFILES_MANIFEST_FILE",
      "RUNFILES_MANIFEST_ONLY",
      "TEST_SRCDIR",
    ];
    const line = [executable, ...residue.map((word) => `'${word}'`)].join(" ");
    return encodeFields([
      [Exec.workingDirectory, `${executable}.runfiles/_main`],
      ...["/bin/bash", "-c", line].map((word): [number, string] => [Exec.argv, word]),
      ...Object.entries(environment).map((pair): [number, Uint8Array] => [
        Exec.environment,
        encodeFields([[1, pair[0]], [2, pair[1]]]),
      ]),
      ...cleared.map((name): [number, string] => [Exec.environmentToClear, name]),
      // With --script_path there is nothing to execute, but a thin client may want to write the script itself.
      [Exec.shouldExec, script === undefined],
      [Exec.scriptPath, script && encodeFields([[1, script], [2, scriptOf(executable, residue)]])],
      ...replaced.map(([type, value]): [number, Uint8Array] => [
        Exec.pathToReplace,
        encodeFields([[1, type], [2, value]]),
      ]),
    ]);
  }
}

/** HEAD's `info` says everything a second time, as an InfoResponse in command_extensions. */
function infoResponse(items: [string, string][]): Uint8Array {
  const response = encodeFields(items.map(([key, value]) => [1, encodeFields([[1, key], [2, value]])]));
  return encodeFields([[1, "type.googleapis.com/command_server.InfoResponse"], [2, response]]);
}

function scriptOf(executable: string, residue: readonly string[]): string {
  return `#!/bin/bash\ncd '${executable}.runfiles/_main' &&\n  exec '${executable}' ${residue.join(" ")} "$@"\n`;
}

function clientVariable(args: readonly string[], name: string): string | undefined {
  const prefix = `--client_env=${name}=`;
  return args.findLast((arg) => arg.startsWith(prefix))?.slice(prefix.length);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
