/**
 * The messages between client and server as the newest Bazels have them. Field numbers are those of Bazel 9.3,
 * `src/main/protobuf/command_server.proto`: up to 8 as ever, RunRequest's 9 since 8.0, its 10 in HEAD of autumn 2026,
 * ExecRequest's 5 since 7.0, 6 and 7 since 8.0, and TerminalSizeRequest since 9.3.0.
 */
import { Buffer } from "node:buffer";
import { bytesValue, scanFields, varintValue } from "../../../../proto/base/protobuf_fields.ts";

export const Run = {
  cookie: 1,
  arg: 2,
  blockForLock: 3,
  clientDescription: 4,
  startupOptions: 6,
  preemptible: 7,
  quiet: 9,
  lockTimeoutMs: 10,
} as const;
export const StartupOption = { option: 1, source: 2 } as const;

export const Response = {
  cookie: 1,
  standardOutput: 2,
  standardError: 3,
  finished: 4,
  exitCode: 5,
  commandId: 6,
  terminationExpected: 7,
  execRequest: 8,
  failureDetail: 9,
  commandExtensions: 10,
} as const;

export const Exec = {
  workingDirectory: 1,
  argv: 2,
  environment: 3,
  environmentToClear: 4,
  shouldExec: 5,
  scriptPath: 6,
  pathToReplace: 7,
} as const;

/** CancelRequest has the first two of them. */
export const TerminalSize = { cookie: 1, commandId: 2, columns: 3, rows: 4 } as const;

/** ServerInfo, the file server/server_info.rawproto. */
export const Info = { pid: 1, address: 2, requestCookie: 3, responseCookie: 4 } as const;

export const SERVICE = "/command_server.CommandServer/";

/** Fields that no Bazel has: what one of tomorrow may add. */
export const TOMORROW = { requestField: 4000, responseField: 77, method: "Tomorrow", option: "--tomorrow" } as const;

/** Bazel's exit codes that the doubles use (`src/main/cpp/util/exit_code.h`, `ExitCode.java`). */
export const ExitCode = {
  SUCCESS: 0,
  BUILD_FAILED: 1,
  COMMAND_LINE_ERROR: 2,
  INTERRUPTED: 8,
  LOCK_HELD: 9,
  LOCAL_ENVIRONMENTAL_ERROR: 36,
  INTERNAL_ERROR: 37,
} as const;

/** A message's fields by number, each in its order. Of other wire types than varint and bytes there are none. */
export class Fields {
  readonly #values = new Map<number, (number | Buffer)[]>();

  constructor(message: Uint8Array) {
    scanFields(message, (field) => {
      const value = field.wireType === 0 ? varintValue(message, field) : Buffer.from(bytesValue(message, field));
      this.#values.set(field.number, [...this.#values.get(field.number) ?? [], value]);
    });
  }

  /** The numbers of the fields that are there. */
  get numbers(): number[] {
    return [...this.#values.keys()];
  }

  all(number: number): Buffer[] {
    return (this.#values.get(number) ?? []).filter((value) => typeof value !== "number");
  }

  bytes(number: number): Buffer | undefined {
    return this.all(number).at(-1);
  }

  text(number: number): string {
    return this.bytes(number)?.toString() ?? "";
  }

  number(number: number): number {
    const value = this.#values.get(number)?.at(-1);
    return typeof value === "number" ? value : 0;
  }
}
