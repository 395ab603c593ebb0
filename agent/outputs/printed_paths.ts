/**
 * Collects paths of the output base that a command prints: `bazel info server_log`, a query with `--output=location`,
 * the log of a failed test. The user will open such a file, so it must be on the laptop.
 */
import { Buffer } from "node:buffer";
import { bytesValue, scanFields } from "../../proto/base/protobuf_fields.ts";
import { decodeName, encodeName } from "../../proto/tree/names.ts";

/** Fields of RunResponse: the bytes of standard output and of standard error. */
const STREAMS = [2, 3];
/** With more paths, the output is a list for a program. */
const MAX_PATHS = 1_000;
/** Maximum length of a path, in bytes. */
const MAX_PATH_BYTES = 4_096;
const SLASH = 0x2f;
/** Whether a byte ends a path in a text: white space, quotes, colons and similar. */
const ENDS = new Uint8Array(256);
for (let byte = 0; byte <= 0x20; byte++) ENDS[byte] = 1;
for (const byte of Buffer.from("\"'`<>|:;,()[]{}*?\\\x7f")) ENDS[byte] = 1;
/** Matches a character before the output base that makes it the end of a longer path. */
const BEFORE = /[\w.~+@/-]/;

/** Collects the printed paths of one command. */
export class PrintedPaths {
  readonly #outputBase: Buffer;
  /** The end of each stream so far, where a path may be cut. */
  readonly #cut = new Map<number, Buffer>();
  readonly #found = new Set<string>();

  /** @param outputBase The developer's absolute path. */
  constructor(outputBase: string) {
    this.#outputBase = Buffer.from(encodeName(outputBase));
  }

  /** Reads the output of an encoded RunResponse. */
  read(response: Uint8Array): void {
    if (this.#found.size >= MAX_PATHS) return;
    scanFields(response, ({ number, ...field }) => {
      if (field.wireType !== 2 || !STREAMS.includes(number)) return;
      const value = bytesValue(response, { number, ...field });
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.length);
      const before = this.#cut.get(number);
      this.#cut.delete(number);
      const rest = this.#scan(before ? Buffer.concat([before, bytes]) : bytes);
      if (rest.length > 0) this.#cut.set(number, Buffer.from(rest));
    });
  }

  /** All printed paths, including the output base itself; absolute, in no order. Call it once. */
  finish(): ReadonlySet<string> {
    for (const text of this.#cut.values()) this.#scan(Buffer.concat([text, Buffer.from("\n")]));
    return this.#found;
  }

  /** @returns the rest, which has to be read again with what follows */
  #scan(text: Buffer): Buffer {
    const { length } = this.#outputBase;
    let from = 0;
    for (let at = text.indexOf(this.#outputBase); at >= 0; at = text.indexOf(this.#outputBase, from)) {
      let end = at + length;
      while (end < text.length && !ENDS[text[end]]) end++;
      if (end === text.length && end - at <= MAX_PATH_BYTES) return text.subarray(Math.max(0, at - 1));
      from = end;
      if (at > 0 && BEFORE.test(String.fromCharCode(text[at - 1]))) continue;
      const isBelow = end === at + length || text[at + length] === SLASH;
      if (isBelow && end - at <= MAX_PATH_BYTES) this.#add(decodeName(text.subarray(at, end)));
      if (this.#found.size >= MAX_PATHS) return text.subarray(text.length);
    }
    // The text may end with the start of the output base's path.
    const last = Math.max(from, text.length - length);
    const slash = text.indexOf(SLASH, last);
    return text.subarray(slash < 0 ? text.length : Math.max(from, slash - 1));
  }

  #add(path: string): void {
    const plain = path.replace(/[./]+$/, "");
    if (!/\/(\.{0,2})(\/|$)/.test(plain)) this.#found.add(plain);
  }
}
