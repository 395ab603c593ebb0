/**
 * Finds outputs that were declared as files but are directories. Bazel before 6 only warns about them when it makes
 * them, and does not list them in its build events:
 *
 *     WARNING: /ws/p/BUILD:1:8: output 'p/tree' of //p:it is a directory; dependency checking of directories is unsound
 */
import { Buffer } from "node:buffer";
import { bytesValue, scanFields } from "../../proto/base/protobuf_fields.ts";
import { decodeName } from "../../proto/tree/names.ts";

const STANDARD_ERROR = 3;
/** A larger piece of output is not one of Bazel's own lines. Bytes. */
const MAX_BYTES = 64 << 10;
/** Maximum number remembered; the oldest are forgotten first. */
const MAX_FOLDERS = 10_000;
const UNSOUND = " is a directory; dependency checking of directories is unsound";
const WARNING = new RegExp(String.raw`output '([^'\n]+)' of (\S+)${UNSOUND}`, "g");

/** The directory outputs of one session. */
export class FolderOutputs {
  /** The rule's label for each path below `bin`. */
  readonly #labels = new Map<string, string>();

  /**
   * Reads the output of an encoded RunResponse. Bazel flushes each of its lines, so none is split over two responses.
   */
  read(response: Uint8Array): void {
    scanFields(response, (field) => {
      if (field.number !== STANDARD_ERROR || field.wireType !== 2 || field.end - field.valueStart > MAX_BYTES) return;
      const value = bytesValue(response, field);
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.length);
      if (!bytes.includes(UNSOUND)) return;
      for (const [, path, label] of decodeName(bytes).matchAll(WARNING)) {
        if (path.startsWith("/") || /(^|\/)\.{0,2}(\/|$)/.test(path)) continue;
        this.#labels.delete(path);
        this.#labels.set(path, label);
        for (const oldest of this.#labels.keys()) {
          if (this.#labels.size <= MAX_FOLDERS) break;
          this.#labels.delete(oldest);
        }
      }
    });
  }

  /** The paths below `bin` that targets with these labels have made. */
  of(labels: ReadonlySet<string>): string[] {
    return [...this.#labels].filter(([, label]) => labels.has(label)).map(([path]) => path);
  }
}
