/**
 * What WORKSPACE and MODULE.bazel files say about folders on this machine, as far as a reader of text can tell: Starlark is
 * not executed, so a path that is put together from pieces is not found.
 */

/** A path that a file names. */
export interface NamedPath {
  /** As it stands there: absolute, or relative to the workspace. */
  path: string;
  /** The rule or directive that it is given to. */
  rule: string;
}

/** What a file says. */
export interface StarlarkFile {
  paths: NamedPath[];
  /** Labels of the files that it loads or includes. */
  loads: string[];
}

type Token = { kind: "name" | "string" | "sign"; text: string };

/** Functions whose first argument is the label of a file with more of the same. */
const LOADING = new Set(["load", "include", "use_extension", "use_repo_rule"]);
/** What takes folders of this machine: local_repository, local_path_override, git_repository, http_archive, maybe(…). */
const RULE = /(repository|override|archive|file|jar|maybe)$/;

/** Reads a WORKSPACE, MODULE.bazel or .bzl file. Never throws, whatever the text is. */
export function readStarlark(text: string): StarlarkFile {
  const tokens = tokenize(text);
  const found: StarlarkFile = { paths: [], loads: [] };
  /** The functions whose parentheses are open. */
  const calls: string[] = [];
  const is = (i: number, sign: string) => tokens[i]?.kind === "sign" && tokens[i].text === sign;
  tokens.forEach((token, i) => {
    if (is(i, "(")) calls.push(tokens[i - 1]?.kind === "name" ? tokens[i - 1].text : "");
    else if (is(i, ")")) calls.pop();
    if (token.kind !== "string") return;
    const call = calls.at(-1) ?? "";
    if (LOADING.has(call) && is(i - 1, "(")) found.loads.push(token.text);
    else if (RULE.test(call)) {
      const whole = is(i + 1, ",") || is(i + 1, ")") || is(i + 1, "]");
      const attribute = is(i - 1, "=") ? tokens[i - 2]?.text : "";
      const path = filePath(token.text) ??
        (attribute === "path" || attribute === "remote" && token.text.startsWith("/") ? token.text : undefined);
      if (whole && path) found.paths.push({ path, rule: call });
    }
  });
  return found;
}

/** The path of a file:// URL on this machine; undefined if it is none. */
export function filePath(url: string): string | undefined {
  if (!/^file:\/\/(localhost)?\//i.test(url)) return undefined;
  const path = url.replace(/^file:\/\/(localhost)?/i, "").replace(/[?#].*$/s, "");
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** Blanks, a comment, a name, or one sign, with which a string may begin. */
const TOKEN = /\s+|#[^\n]*|([A-Za-z_]\w*)|([^])/y;

/** The tokens of a Starlark file, comments left out. */
function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  TOKEN.lastIndex = 0;
  for (let match; (match = TOKEN.exec(text));) {
    const [, name, sign] = match;
    if (name !== undefined) tokens.push({ kind: "name", text: name });
    else if (sign === undefined) continue;
    else if (sign === '"' || sign === "'") {
      const start = TOKEN.lastIndex - 1;
      const before = tokens.at(-1);
      const raw = before?.kind === "name" && /^r?b?r?$/i.test(before.text) && /\w/.test(text[start - 1]);
      if (raw) tokens.pop();
      const [value, end] = readString(text, start, raw);
      tokens.push({ kind: "string", text: value });
      TOKEN.lastIndex = end;
    } else tokens.push({ kind: "sign", text: sign });
  }
  return tokens;
}

/** Reads a string that begins at `start`: its value, and where it ends. One that does not end ends with its line. */
function readString(text: string, start: number, raw: boolean): [string, number] {
  const quote = text.startsWith(text[start].repeat(3), start) ? text[start].repeat(3) : text[start];
  let value = "";
  let i = start + quote.length;
  while (i < text.length && !text.startsWith(quote, i)) {
    if (quote.length === 1 && text[i] === "\n") return [value, i];
    if (text[i] === "\\" && i + 1 < text.length) {
      if (raw) value += "\\" + text[i + 1];
      else if (text[i + 1] !== "\n") value += ESCAPES[text[i + 1]] ?? `\\${text[i + 1]}`;
      i += 2;
    } else value += text[i++];
  }
  return [value, Math.min(i + quote.length, text.length)];
}

const ESCAPES: Record<string, string> = { n: "\n", t: "\t", r: "\r", "\\": "\\", '"': '"', "'": "'" };
