import { Buffer } from "node:buffer";
import { patchFields } from "../../proto/base/protobuf_fields.ts";

const STANDARD_ERROR = 3;
/** A larger piece of output is not one of Bazel's own lines. Bytes. */
const MAX_BYTES = 4096;
/** With or without colors. The second form is for a command that was refused before it began. */
const NOTICE = new RegExp(
  String.raw`(?:\x1b\[\d+m)*(?:INFO: (?:\x1b\[0m)?Build Event Protocol files produced successfully\.` +
    String.raw`|WARNING: (?:\x1b\[0m)?BES was not properly closed)\r?\n`,
);
/** An empty progress bar, which 7.7.1 prints while it waits for the events to be written. */
// deno-lint-ignore no-control-regex
const EMPTY_BAR = /^(?:(?:\x1b\[\d+m)*(?:INFO|FAILED):(?:\x1b\[0m)? \r?\n)+$/;
/** Moves up to erase a progress bar on a terminal. */
const CURSOR_UP = "\x1b[1A";

/**
 * Removes what Bazel prints only because it writes build events: one line and, in 7.7.1, an empty progress bar. Bazel
 * flushes each of its lines, so none is split over two responses.
 */
export class BuildEventsNotice {
  #hasBars = false;

  /**
   * @param response An encoded RunResponse.
   * @returns the response to send instead; undefined if unchanged
   */
  filter(response: Uint8Array): Uint8Array | undefined {
    let changed = false;
    const pieces = patchFields(response, (field) => {
      if (field.number !== STANDARD_ERROR || field.wireType !== 2 || field.end - field.valueStart > MAX_BYTES) return;
      const text = Buffer.from(response.buffer, response.byteOffset + field.valueStart, field.end - field.valueStart)
        .toString("latin1");
      this.#hasBars ||= text.includes(CURSOR_UP);
      let rest = text.replace(NOTICE, "");
      // On a terminal the next output erases the bar; without the bar it would erase another line.
      if (!this.#hasBars && EMPTY_BAR.test(rest)) rest = "";
      if (rest === text) return;
      changed = true;
      return Buffer.from(rest, "latin1");
    });
    return changed ? Buffer.concat(pieces) : undefined;
  }
}
