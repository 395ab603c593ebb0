import { RbsError } from "../../proto/base/errors.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { usage } from "./settings.ts";

const BEGIN =
  '# >>> rbs: written by "jbazel setup"; "jbazel setup" with the same option and --remove takes this block out again >>>';
const END = "# <<< rbs <<<";
/** The lines are recognized by these, so that the rest may change between versions. */
const BEGIN_MARK = "# >>> rbs:";
const END_MARK = "# <<< rbs";
/** Notes in the last line of the block, about what was added with it. */
const NOTES = { newline: " (with the newline before)", file: " (with the file)" };

/** The block's remains in an rc file do not say where it ends. The message follows the file's name. */
export class DamagedBlock extends RbsError {
  constructor() {
    super(
      "Its rbs block is damaged (the lines that begin and end it do not pair up): remove what is left of it by hand.",
      { culprit: "caller", exitCode: ExitCode.COMMAND_LINE_ERROR },
    );
  }
}

/** The line that makes Bazel use a javabase. Throws for a path that an rc line cannot contain. */
export function startupLine(javabase: string): string {
  // Bazel 4.2.3 `rc_file.cc` drops carriage returns, and a line break cannot be quoted.
  if (/[\r\n\0]/.test(javabase)) {
    throw usage(
      `A bazelrc line cannot hold the path ${JSON.stringify(javabase)}, because of its line break: move that folder.`,
    );
  }
  return `startup ${quoteRcWord(`--server_javabase=${javabase}`)}`;
}

/** Quotes one word of an rc line. Bazel splits lines into words like a shell, but expands nothing. */
export function quoteRcWord(word: string): string {
  return /^[^\s"'\\#]+$/.test(word) ? word : `"${word.replaceAll(/["\\]/g, "\\$&")}"`;
}

/** An rc file's text, split at our block. */
interface Parts {
  before: string;
  /** Undefined if there is no block. */
  block: string | undefined;
  after: string;
}

function cut(text: string): Parts {
  const lines = text.split(/(?<=\n)/);
  const begins = lines.flatMap((l, i) => l.startsWith(BEGIN_MARK) ? [i] : []);
  const ends = lines.flatMap((l, i) => l.startsWith(END_MARK) ? [i] : []);
  if (begins.length === 0 && ends.length === 0) return { before: text, block: undefined, after: "" };
  if (begins.length !== 1 || ends.length !== 1 || ends[0] < begins[0]) {
    throw new DamagedBlock();
  }
  const join = (from: number, to: number) => lines.slice(from, to).join("");
  return { before: join(0, begins[0]), block: join(begins[0], ends[0] + 1), after: join(ends[0] + 1, lines.length) };
}

/** The block as written into a file, with the newline after it. */
export function renderBlock(javabase: string): string {
  return `${BEGIN}\n${startupLine(javabase)}\n${END}\n`;
}

/**
 * Adds our block for `javabase` to a text, or updates an existing block in place.
 *
 * @param text The file's text; undefined if there is no file.
 */
export function addBlock(text: string | undefined, javabase: string): string {
  const { before, block, after } = cut(text ?? "");
  const render = (note: string) => renderBlock(javabase).replace(`${END}\n`, `${END}${note}\n`);
  if (block !== undefined) return before + render(Object.values(NOTES).find((n) => block.includes(n)) ?? "") + after;
  if (text === undefined) return render(NOTES.file);
  // A line that ends in a backslash continues in the next one; an empty line ends that as well.
  const ended = text === "" || (text.endsWith("\n") && !text.endsWith("\\\n"));
  return text + (ended ? render("") : "\n" + render(NOTES.newline));
}

/**
 * Removes our block: the result equals the text before {@link addBlock}, byte for byte. Undefined if there was no file,
 * and nothing else was added to it.
 */
export function removeBlock(text: string): string | undefined {
  const { before, block, after } = cut(text);
  if (block?.includes(NOTES.file) && before + after === "") return undefined;
  // Text added after the block must not be joined to the line before it.
  return block?.includes(NOTES.newline) && after === "" ? before.replace(/\n$/, "") : before + after;
}

/** Whether a text has our block. */
export const hasBlock = (text: string): boolean => cut(text).block !== undefined;
