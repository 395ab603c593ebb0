import { RbsError } from "../../proto/base/errors.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { usage } from "./settings.ts";

const BEGIN =
  '# >>> rbs: written by "jbazel setup"; "jbazel setup" with the same option and --remove takes this block out again >>>';
const END = "# <<< rbs <<<";
/** Recognised by these, so that the explanation behind may change from version to version. */
const BEGIN_MARK = "# >>> rbs:";
const END_MARK = "# <<< rbs";
/** Notes in the last line of the block, about what else was added with it. */
const NOTES = { newline: " (with the newline before)", file: " (with the file)" };

/** What is left of the block in an rc file says not where it ends. The message is to be read after the file's name. */
export class DamagedBlock extends RbsError {
  constructor() {
    super(
      "Its rbs block is damaged (the lines that begin and end it do not pair up): remove what is left of it by hand.",
      { culprit: "caller", exitCode: ExitCode.COMMAND_LINE_ERROR },
    );
  }
}

/** The line that makes Bazel use a javabase. Throws for a path that no rc line can hold. */
export function startupLine(javabase: string): string {
  // Bazel 4.2.3 `rc_file.cc` drops carriage returns, and no quoting holds a line's end.
  if (/[\r\n\0]/.test(javabase)) {
    throw usage(
      `A bazelrc line cannot hold the path ${JSON.stringify(javabase)}, because of its line break: move that folder.`,
    );
  }
  return `startup ${quoteRcWord(`--server_javabase=${javabase}`)}`;
}

/** One word of an rc line. Bazel splits lines into words as a shell does, but expands nothing. */
export function quoteRcWord(word: string): string {
  return /^[^\s"'\\#]+$/.test(word) ? word : `"${word.replaceAll(/["\\]/g, "\\$&")}"`;
}

/** An rc file's text, cut at our block. */
interface Parts {
  before: string;
  /** Undefined: there is none. */
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

/** The block as it stands in a file, with the newline after it. */
export function renderBlock(javabase: string): string {
  return `${BEGIN}\n${startupLine(javabase)}\n${END}\n`;
}

/**
 * The text with our block in it, naming `javabase`. A block that is there is brought up to date where it stands.
 *
 * @param text The file's; undefined when there is no file.
 */
export function addBlock(text: string | undefined, javabase: string): string {
  const { before, block, after } = cut(text ?? "");
  const render = (note: string) => renderBlock(javabase).replace(`${END}\n`, `${END}${note}\n`);
  if (block !== undefined) return before + render(Object.values(NOTES).find((n) => block.includes(n)) ?? "") + after;
  if (text === undefined) return render(NOTES.file);
  // A line that ends in a backslash goes on in the next one, and an empty line ends that too.
  const ended = text === "" || (text.endsWith("\n") && !text.endsWith("\\\n"));
  return text + (ended ? render("") : "\n" + render(NOTES.newline));
}

/**
 * The text without our block: what it was before {@link addBlock}, byte for byte. Undefined: there was no file, and
 * nothing else has come into it.
 */
export function removeBlock(text: string): string | undefined {
  const { before, block, after } = cut(text);
  if (block?.includes(NOTES.file) && before + after === "") return undefined;
  // What was written behind the block since then must not be drawn into the line before it.
  return block?.includes(NOTES.newline) && after === "" ? before.replace(/\n$/, "") : before + after;
}

/** Whether our block is there. */
export const hasBlock = (text: string): boolean => cut(text).block !== undefined;
