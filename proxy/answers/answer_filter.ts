/**
 * What an agent's response may make the client do: an allow-list per command. Whoever speaks for the agent (a build
 * action may have taken the Bazel server's place), the laptop does only what the user asked for:
 *
 *     field of RunResponse         reaches the client
 *     output, exit code, details   always: they are data
 *     exec_request                 with the last response to `run`, and only as run_command.ts has it
 *     termination_expected         with the last response to `shutdown` and `clean --expunge`, and of a server that says it
 *                                  has crashed
 *     fields unknown to this       never: a newer client may act on them
 *     version
 *
 * Anything else ends the command with exit code 37.
 */
import { Buffer } from "node:buffer";
import { withoutExpunge } from "../../proto/bazel/clean_expunge.ts";
import { ResponseField } from "../../proto/bazel/run_response.ts";
import { bytesValue, type Field, lengthPrefix, scanFields, varintValue } from "../../proto/base/protobuf_fields.ts";
import { fileName, latin1 } from "../arguments/run_arguments.ts";
import { readExecRequest } from "./exec_request.ts";
import { quoted, wants } from "./refusal.ts";
import { objection } from "./run_command.ts";

const VARINT = 0, BYTES = 2;
const WIRE_TYPES: Record<number, number> = {
  [ResponseField.cookie]: BYTES,
  [ResponseField.stdout]: BYTES,
  [ResponseField.stderr]: BYTES,
  [ResponseField.finished]: VARINT,
  [ResponseField.exitCode]: VARINT,
  [ResponseField.commandId]: BYTES,
  [ResponseField.terminationExpected]: VARINT,
  [ResponseField.execRequest]: BYTES,
  [ResponseField.failureDetail]: BYTES,
  [ResponseField.commandExtensions]: BYTES,
};

/** The command that is answered, and where it was given. */
export interface AnsweredCommand {
  /** The RunRequest's arguments, as the client sent them. */
  args: readonly Buffer[];
  /** The agent's name in messages. */
  agent: string;
  /** Absolute paths. */
  workspace: string;
  outputBase: string;
}

/** Exit codes with which a server ends by itself: out of memory, and an internal error (`ExitCode.java`). */
const CRASHED = [33, 37];

/** A response that may reach the client after {@link AnswerFilter.checkExecution}. */
export interface Answer {
  /** The pieces to pass on. */
  pieces: Uint8Array[];
  exitCode: number;
  terminates: boolean;
  execRequest?: Uint8Array;
}

/** Filters the responses of one command. */
export class AnswerFilter {
  readonly #command: AnsweredCommand;
  readonly #name: string;

  constructor(command: AnsweredCommand) {
    this.#command = command;
    this.#name = command.args[0] ? latin1(command.args[0]) : "";
  }

  /**
   * Reads a response. Throws an RbsError with exit code 37 if it wants what its command does not ask for, and a
   * WireError if it is malformed.
   *
   * @param last Whether it is the last response.
   * @param replace The new value of a field of bytes; undefined keeps it.
   */
  read(response: Uint8Array, last: boolean, replace: (field: Field) => Uint8Array | undefined): Answer {
    const answer: Answer = { pieces: [], exitCode: 0, terminates: false };
    let seen = 0, terminates = false;
    scanFields(response, (field) => {
      const { number, wireType } = field;
      const expected = WIRE_TYPES[number];
      if (expected === undefined) return;
      if (expected !== wireType) throw this.#wants(`something by a field ${number} of the wire type ${wireType}`);
      if (number !== ResponseField.commandExtensions) {
        // Clients merge repeated fields or take the last: what was checked must be what they see.
        if (seen & (1 << number)) throw this.#wants(`something by a field ${number} that is there twice`);
        seen |= 1 << number;
      }
      if (number === ResponseField.exitCode) answer.exitCode = varintValue(response, field);
      else if (number === ResponseField.execRequest) answer.execRequest = bytesValue(response, field);
      else if (number === ResponseField.terminationExpected) {
        terminates = varintValue(response, field) !== 0;
        return; // Added below, when everything is known.
      }
      const value = expected === BYTES ? replace(field) : undefined;
      if (value) answer.pieces.push(lengthPrefix(number, value.length), value);
      else answer.pieces.push(response.subarray(field.start, field.end));
    });
    if (answer.execRequest && !(last && this.#name === "run")) {
      throw this.#wants(`a program executed here ${last ? "for" : "in the middle of"} ${this.#quotedName()}`);
    }
    if (terminates) {
      // After a crash a client finds no server, and starts another.
      if (last && (CRASHED.includes(answer.exitCode) || this.#mayTerminate())) {
        answer.terminates = true;
        answer.pieces.push(Uint8Array.of(ResponseField.terminationExpected * 8, 1));
      } else if (!last || answer.exitCode === 0) {
        throw this.#wants(`the server ended for ${this.#quotedName()}`);
      }
    }
    return answer;
  }

  /**
   * Checks what is to be executed on this machine, if anything. Throws an RbsError with exit code 37 if it must not be.
   *
   * @param isHome Whether a path was copied here, or contains something that was; undefined where laptop and agent
   * share a disk.
   */
  checkExecution({ execRequest }: Answer, isHome?: (path: string) => boolean): void {
    if (!execRequest) return;
    const { agent, args, workspace, outputBase } = this.#command;
    let request;
    try {
      request = readExecRequest(execRequest);
    } catch (e) {
      throw wants(
        agent,
        `something executed that cannot be judged, since ${(e as Error).message}`,
        "update RBS, or report it",
      );
    }
    const refused = objection(request, {
      args,
      workspace: inLatin1(workspace),
      outputBases: (isHome ? [outputBase] : sharedOutputBases(outputBase)).map(inLatin1),
      isHome: isHome ? (path) => isHome(fileName(path)) : () => true,
    });
    if (refused) throw wants(agent, refused.what, refused.remedy);
  }

  #mayTerminate(): boolean {
    return this.#name === "shutdown" || withoutExpunge(this.#command.args.map((arg) => latin1(arg))).expunge;
  }

  #quotedName(): string {
    return quoted(this.#name);
  }

  #wants(what: string): Error {
    return wants(this.#command.agent, what);
  }
}

/** Where laptop and agent share a disk: this machine's output base, and the session's, to which its links lead. */
function sharedOutputBases(outputBase: string): string[] {
  try {
    const target = Deno.readLinkSync(`${outputBase}/execroot`);
    if (/^\/.+\/execroot$/.test(target)) return [outputBase, target.slice(0, -"/execroot".length)];
  } catch { /* no link yet: then nothing leads there */ }
  return [outputBase];
}

/** Text as the bytes of its UTF-8 encoding, one character per byte. */
function inLatin1(text: string): string {
  return Buffer.from(text).toString("latin1");
}
