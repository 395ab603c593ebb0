/**
 * Finds the files that `bazel run` executes on the developer's machine, from the ExecRequest for the client or from a
 * `--script_path` file.
 */
import { join, normalize } from "node:path";
import { bytesValue, scanFields } from "../../proto/base/protobuf_fields.ts";
import { decodeName } from "../../proto/tree/names.ts";

/** Field numbers of ExecRequest in command_server.proto, and of its EnvironmentVariable. */
const ExecRequest = { workingDirectory: 1, argv: 2, environmentVariable: 3 };
const EnvironmentVariable = { value: 2 };
/** Maximum nesting of shell commands: `--run_under` puts one into another. */
const MAX_NESTING = 4;

/** Absolute paths that an ExecRequest may use, in no order. Most of them are not files. */
export function executedFiles(execRequest: Uint8Array): Set<string> {
  let workingDirectory = "/";
  const texts: string[] = [];
  scanFields(execRequest, (field) => {
    if (field.wireType !== 2) return;
    const value = bytesValue(execRequest, field);
    if (field.number === ExecRequest.workingDirectory) workingDirectory = decodeName(value);
    else if (field.number === ExecRequest.argv) texts.push(decodeName(value));
    else if (field.number === ExecRequest.environmentVariable) {
      scanFields(value, (part) => {
        if (part.number === EnvironmentVariable.value && part.wireType === 2) {
          texts.push(decodeName(bytesValue(value, part)));
        }
      });
    }
  });
  // `bazel run` of a test runs in the execroot, and names files relative to it.
  return paths(workingDirectory, [workingDirectory, ...texts]);
}

/** Like {@link executedFiles}, for a shell script. */
export function filesOfScript(script: string): Set<string> {
  return paths("/", [script]);
}

function paths(workingDirectory: string, texts: readonly string[], found = new Set<string>(), nesting = 0) {
  for (const text of texts) {
    // The text may be a path with spaces, or a shell command line.
    const words = nesting < MAX_NESTING ? shellWords(text) : [];
    for (const word of new Set([text, ...words])) {
      for (const path of [word, word.slice(word.indexOf("=") + 1)]) {
        if (path.includes("/") && !path.includes("\n")) {
          found.add(normalize(join(path.startsWith("/") ? "" : workingDirectory, path)));
        }
      }
    }
    const commands = words.filter((word) => word !== text && /\s/.test(word));
    if (commands.length > 0) paths(workingDirectory, commands, found, nesting + 1);
  }
  return found;
}

/** The words of a shell command line, without quotes. */
function shellWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  const token = /\\\n|\\([^])|'([^']*)'|"((?:[^"\\]|\\[^])*)"|([\s;&|()<>]+)|([^\\'"\s;&|()<>]+|[^])/g;
  for (const [, escaped, single, double, space, plain] of text.matchAll(token)) {
    if (space !== undefined) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? "") + (escaped ?? single ?? double?.replace(/\\(["\\$`])/g, "$1") ?? plain ?? "");
  }
  if (word !== undefined) words.push(word);
  return words;
}
