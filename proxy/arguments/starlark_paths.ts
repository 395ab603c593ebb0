/**
 * Finds paths of this machine in WORKSPACE and MODULE.bazel files. Starlark is read as text and not executed, so a
 * computed path is not found.
 */

/** A path in a file. */
export interface NamedPath {
  /** As written: absolute, or relative to the workspace. */
  path: string;
  /** The rule or directive that it is passed to. */
  rule: string;
}

/** The paths and loads of a file. */
export interface StarlarkFile {
  paths: NamedPath[];
  /** Labels of the files that it loads or includes. */
  loads: string[];
}

type Token = { kind: "name" | "string" | "sign"; text: string };

/** Functions whose first argument is the label of a file to read as well. */
const LOADING = new Set(["load", "include", "use_extension", "use_repo_rule"]);
/**
 * Functions that take paths of this machine: local_repository, local_path_override, git_repository, http_archive,
 * maybe(…).
 */
const RULE = /(repository|override|archive|file|jar|maybe)$/;

/** Reads a WORKSPACE, MODULE.bazel or .bzl file. Never throws. */
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

/** The path of a file:// URL on this machine; undefined for anything else. */
export function filePath(url: string): string | undefined {
  if (!/^file:\/\/(localhost)?\//i.test(url)) return undefined;
  const path = url.replace(/^file:\/\/(localhost)?/i, "").replace(/[?#].*$/s, "");
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** White space, a comment, a name, or a single character, which may start a string. */
const TOKEN = /\s+|#[^\n]*|([A-Za-z_]\w*)|([^])/y;

/** The tokens of a Starlark file, without comments. */
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

/** Reads the string at `start`: its value and its end. An unterminated string ends with its line. */
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
