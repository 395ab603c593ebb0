import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { checkUserName, isAllowed } from "./user_name.ts";

function refusal(name: string): string | undefined {
  try {
    checkUserName(name);
  } catch (e) {
    assert(e instanceof RbsError, String(e));
    return e.message;
  }
}

/** A name for each code point there is. */
function* characters(): Iterable<string> {
  for (let code = 0; code <= 0x10ffff; code++) {
    if (code < 0xd800 || code > 0xdfff) yield String.fromCodePoint(code);
  }
}

Deno.test("user names: what people and directories are called is possible", () => {
  const names = ["ann", "uid-1000", "jürg.müller@example.com", "CORP\\ann", "ann+test@example.org", "Ann O'Neill"];
  for (const name of [...names, "françois", "Åsa", "łukasz", "Şebnem", "þór", "žižka", "HOST$", "straße", "oidc:ann"]) {
    assert.equal(refusal(name), undefined, name);
  }
});

Deno.test("user names: a refusal is one sentence that shows the code point, and nothing that cannot be seen", () => {
  const cases: [string, string][] = [
    ["ann\u200b", "character 4 is U+200B"], // zero width space
    ["\ufeffann", "character 1 is U+FEFF"],
    ["a\u00adnn", "character 2 is U+00AD"], // soft hyphen
    ["ann\u202e", "character 4 is U+202E"], // from here on backwards
    ["ann\u2066", "character 4 is U+2066"],
    ["ann\u034f", "character 4 is U+034F"], // combining grapheme joiner
    ["ann\u3164", "character 4 is U+3164"], // a letter of Hangul that is empty
    ["ann\ufe0f", "character 4 is U+FE0F"],
    ["ann\u{e0061}", "character 4 is U+E0061"], // a tag
    ["\u0430nn", "character 1 is а (U+0430)"], // Cyrillic
    ["\u0441\u043e\u0441\u043e", "character 1 is с (U+0441)"], // the whole name
    ["\u03bfnn", "character 1 is ο (U+03BF)"], // Greek
    ["\uff41nn", "character 1 is ａ (U+FF41)"], // full width
    ["\u{1d41a}nn", "character 1 is 𝐚 (U+1D41A)"], // mathematical
    ["u\u0308ber", "character 2 is U+0308"], // the same as ü
    ["d\u0131ma", "character 2 is ı (U+0131)"],
    ["\u0110uro", "character 1 is Đ (U+0110)"],
    ["ann\u00a0b", "character 4 is U+00A0"],
    ["ann\u2019s", "character 4 is ’ (U+2019)"],
    ["an\ud800n", "character 3 is U+D800"],
    ["a/b", "character 2 is / (U+002F)"],
    ["a\tb", "character 2 is U+0009"],
    [" ann", "a space (U+0020)"],
    ["ann ", "a space (U+0020)"],
    ["ann  b", "a space (U+0020)"],
    ["...", "no letter or digit"],
    ["", "no letter or digit"],
  ];
  for (const [name, why] of cases) {
    const message = refusal(name) ?? "no refusal";
    assert(message.includes(why), `${JSON.stringify(name)}: ${message}`);
    assert.match(message, /^The user name ".*" cannot be used, since [^\n]*\.$/);
    // Beside the letter that it is about.
    assert.doesNotMatch(message, /[\p{Cc}\p{Cf}\p{Cs}\p{Mn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u00a0]/u);
  }
});

Deno.test("user names: of all characters there are, no two that are allowed look the same", () => {
  const allowed = Array.from(characters()).filter(isAllowed);
  assert(allowed.length > 200 && allowed.length < 300, String(allowed.length));
  const looks = new Map<string, string>();
  for (const character of allowed) {
    assert.equal(character.normalize("NFKC"), character);
    assert.match(character, /^[\p{Script=Latin}\p{Script=Common}]$/u);
    assert.doesNotMatch(character, /[\p{C}\p{M}\p{Default_Ignorable_Code_Point}]/u);
    // What is on a letter is told by few: a caron and a breve, a cedilla and a comma below.
    const look = character.normalize("NFD").replace("\u030c", "\u0306").replace("\u0326", "\u0327");
    assert.equal(looks.get(look), undefined, `${looks.get(look)} and ${character}`);
    looks.set(look, character);
  }
});
