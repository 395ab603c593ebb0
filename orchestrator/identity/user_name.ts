import { RbsError } from "../../proto/base/errors.ts";

/**
 * Which names users can have: such that two names that look the same are the same. A name is what a person reads in a
 * log, and what another is locked out by, so "ann" in Cyrillic letters, or with something invisible in it, must not
 * exist beside "ann".
 *
 * Latin letters, for an alphabet of which each letter has its own look: two alphabets have doubles (a and а), one does
 * not. Digits, and of the signs one of a kind, so that there are e-mail addresses, domain accounts and O'Neill in it.
 */
const SIGNS = " .,:;_+@'\\=#$&!-";
/**
 * What the Latin letters of Europe's languages wear, by combining character. No two look alike: of the cedilla and the
 * comma below, Unicode has both for the same languages' letters, and the alphabet below has only one of them on a letter.
 */
const MARKS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030A\u030B\u030C\u0327\u0328";
/**
 * Letters that are no other letter with a mark. Not among them: Ð and Đ, which are two letters with one look, the
 * dotless ı, and ĸ, a small k.
 */
const LETTERS = "ÆæØøÞþßðđŁłŒœĦħŦŧŊŋ";
/** In Latin Extended-A, and hardly to be told from ě. */
const DOUBLES = "Ĕĕ";
/** Latin-1 Supplement and Latin Extended-A: the letters of the languages of Europe. */
const LAST_LETTER = 0x17f;

/** Whether a name may have this character. */
export function isAllowed(character: string): boolean {
  if (/^[A-Za-z0-9]$/.test(character) || SIGNS.includes(character) || LETTERS.includes(character)) return true;
  if (character.codePointAt(0)! > LAST_LETTER || DOUBLES.includes(character)) return false;
  const [letter, ...marks] = character.normalize("NFD");
  return /^[A-Za-z]$/.test(letter) && marks.length === 1 && MARKS.includes(marks[0]);
}

/**
 * Checks the name of a user who is to be known here from now on. Throws an RbsError of one sentence that shows the code
 * point which cannot be.
 */
export function checkUserName(name: string): string {
  const refuse = (why: string): never => {
    throw new RbsError(
      `The user name ${shown(name)} cannot be used, since ${why}: names are of Latin letters, digits, single spaces ` +
        `between them, and the signs ${SIGNS.trim()}, so that no two look alike.`,
      { culprit: "caller", exitCode: 2 },
    );
  };
  for (const [at, character] of [...name].entries()) {
    if (!isAllowed(character)) refuse(`its character ${at + 1} is ${codePoint(character)}`);
  }
  if (/^ | $| {2}/.test(name)) refuse("a space (U+0020) that is not between two other characters cannot be seen");
  if (!/[A-Za-z0-9]/.test(name.normalize("NFD"))) refuse("there is no letter or digit in it");
  return name;
}

function codePoint(character: string): string {
  const hex = character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
  // Shown by itself only where it is to be seen, and turns nothing around.
  return /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(character) && !/\p{Default_Ignorable_Code_Point}/u.test(character)
    ? `${character} (U+${hex})`
    : `U+${hex}`;
}

/** The name for a message, with all that it may not hold as code points. */
function shown(name: string): string {
  const characters = [...name].slice(0, 128).map((character) =>
    isAllowed(character) ? character : `\\u{${character.codePointAt(0)!.toString(16).toUpperCase()}}`
  );
  return `"${characters.join("")}"`;
}
