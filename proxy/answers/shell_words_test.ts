import assert from "node:assert/strict";
import { shellWords, wordsAfterPrefix } from "./shell_words.ts";

/** As Bazel's `ShellEscaper`. */
function quote(word: string): string {
  return /^[\w@%+:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

const ODD = ["", " ", "a b", '$x `y` "z"', "'", "''", "\\", "\n", "*", "~", "a=b", ";", "\xff\xa0", "#", "--x=y", "-c"];

Deno.test("what Bazel has quoted is read back", () => {
  for (let i = 0; i < ODD.length; i++) {
    const words = ["/out/bin", ...ODD.slice(0, i + 1)];
    assert.deepEqual(shellWords(words.map(quote).join(" ")), words);
  }
});

Deno.test("what a shell would find anything but words in is nothing of Bazel's", () => {
  for (
    const text of [
      ...'; & | < > ( ) $ ` \\ " ! { } * ? [ ] # ~ ='.split(" ").flatMap((
        c,
      ) => [`/a${c}`, `/a ${c}`, `/a ${c}b`, `/a '' ${c}b`]),
      ..."'a | 'a'b | a'b' | 'a''b' | 'a'\\'b | 'a'\\''b | \\' | /a\n/b | /a\t/b | /a\r".split(" | "),
      "",
      " /a",
      "/a ",
      "/a  b",
      "/a\0b",
      "/a '\0'",
      "/a\xa0b",
    ]
  ) assert.equal(shellWords(text), undefined, JSON.stringify(text));
});

Deno.test("after a prefix, the path may stand without quotes, and mean nothing to a shell either", () => {
  assert.deepEqual(wordsAfterPrefix("/out/a~b=c "), ["/out/a~b=c"]);
  assert.deepEqual(wordsAfterPrefix("/out/gr\xc3\xb6 'x y' z"), ["/out/gr\xc3\xb6", "x y", "z"]);
  assert.deepEqual(wordsAfterPrefix("'/out/a b' c"), ["/out/a b", "c"]);
  for (const text of ["/a;b", "/a$b", "/a b;c", "/a  b", "/a `b`", "/a 'b", "a=b /c", "/a\n/b", "", " "]) {
    assert.equal(wordsAfterPrefix(text), undefined, JSON.stringify(text));
  }
});
