/**
 * An agent that was taken over: loaded before the real one (`deno run --preload`), this changes what it answers, as a file
 * says that is read for each response, and whose path is in RBS_TEST_LIE.
 */
import { Buffer } from "node:buffer";
import { CommandJournal, ExecuteResponseField } from "../../agent/commands/command_journal.ts";
import { scanFields } from "../../proto/base/protobuf_fields.ts";

/** How a response is changed. */
export interface Lie {
  /** Which response of a command. */
  at: "first" | "last";
  /** Fields that are taken out. */
  without: number[];
  /** Encoded fields that are added, in hex. */
  added: string;
}

const file = Deno.env.get("RBS_TEST_LIE")!;
const { append } = CommandJournal.prototype;
const begun = new WeakSet<CommandJournal>();

CommandJournal.prototype.append = function (field, value) {
  return append.call(this, field, field === ExecuteResponseField.runResponse ? changed(this, value) : value);
};

function changed(journal: CommandJournal, response: Uint8Array): Uint8Array {
  let lie: Lie;
  try {
    lie = JSON.parse(Deno.readTextFileSync(file));
  } catch {
    return response;
  }
  const isFirst = !begun.has(journal);
  begun.add(journal);
  let isLast = false;
  const kept: Uint8Array[] = [];
  scanFields(response, ({ number, start, end }) => {
    isLast ||= number === 4;
    if (!lie.without.includes(number)) kept.push(response.subarray(start, end));
  });
  if (!(lie.at === "first" ? isFirst : isLast)) return response;
  return Buffer.concat([...kept, Buffer.from(lie.added, "hex")]);
}
