/** RunRequests as stock clients send them. */
import { Buffer } from "node:buffer";

/** The parts of a request. */
export interface Request {
  /** @default "build" */
  command?: string;
  /** Lines of one rc file, with their words split at spaces: "build:dbg --copt=-g". */
  rc?: string[];
  /** "NAME=VALUE", in latin1. */
  env?: string[];
  /** @default "/home/ann/ws" */
  cwd?: string;
  /** What the user typed after the command, in latin1. */
  typed?: string[];
}

/** The arguments of a RunRequest, in the form of Bazel 4.2.3. */
export function request({ command = "build", rc = [], env = [], cwd = "/home/ann/ws", typed = [] }: Request): Buffer[] {
  const overrides = rc.flatMap((line) => {
    const [section, ...words] = line.split(" ");
    return words.map((word) => `--default_override=1:${section}=${word}`);
  });
  return [
    command,
    "--startup_time=130",
    "--command_wait_time=0",
    "--extract_data_time=0",
    "--restart_reason=no_daemon",
    "--binary_path=/usr/bin/bazel",
    "--rc_source=client",
    "--default_override=0:common=--isatty=0",
    "--default_override=0:common=--terminal_columns=80",
    "--rc_source=/home/ann/ws/.bazelrc",
    ...overrides,
    ...env.map((variable) => `--client_env=${variable}`),
    `--client_cwd=${cwd}`,
    ...typed,
  ].map((arg) => Buffer.from(arg, "latin1"));
}

/** Random bytes, mostly those that matter to a parser of arguments. @param random Returns 0 to below 1. */
export function oddArguments(random: () => number): Buffer[] {
  const pieces = [
    ..."--client_env= --client_cwd= --default_override= --rc_source= --config= --profile --action_env= -- - = : 0 1 no"
      .split(
        " ",
      ),
    ..."build test:x common %workspace% ~/ / .. A B , * \n \0 \xff \xc3 \xa9".split(" "),
    "",
  ];
  const any = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)];
  return Array.from({ length: Math.floor(random() * 12) }, () => {
    const text = Array.from({ length: Math.floor(random() * 5) }, () => any(pieces)).join("");
    return Buffer.from(random() < 0.1 ? text + String.fromCharCode(Math.floor(random() * 256)) : text, "latin1");
  });
}

/** A reproducible sequence of numbers. */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
}
