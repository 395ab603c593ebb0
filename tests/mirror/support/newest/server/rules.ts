/** The small part of BUILD files that the double of a server understands: calls of rules, with texts and lists of them. */

/** A rule of a BUILD file. */
export interface Rule {
  kind: string;
  name: string;
  /** Of `cmd` and `outs`, say; a text is a list of one. */
  attributes: Record<string, string[]>;
}

/** All rules of a BUILD file. Throws for what is none. */
export function readRules(text: string): Rule[] {
  const tokens = [...text.matchAll(/#.*|"((?:[^"\\]|\\[^])*)"|(\w+)|([()\[\],=+])/g)]
    .filter(([token]) => !token.startsWith("#"));
  let at = 0;
  const isNext = (token: string) => tokens[at]?.[3] === token;
  const skip = (token: string) => {
    if (!isNext(token)) throw new Error(`"${token}" was expected where ${tokens[at]?.[0] ?? "the end"} is`);
    at++;
  };
  const value = (): string[] => {
    if (!isNext("[")) return [string()];
    const values: string[] = [];
    for (at++; !isNext("]"); isNext(",") && at++) values.push(string());
    skip("]");
    return values;
  };
  const string = () => {
    let text = "";
    do {
      if (isNext("+")) at++;
      text += (tokens[at++]?.[1] ?? "").replace(/\\([^])/g, (_, c) => c === "n" ? "\n" : c);
    } while (isNext("+"));
    return text;
  };
  const rules: Rule[] = [];
  while (at < tokens.length) {
    const kind = tokens[at++][2];
    const attributes: Rule["attributes"] = {};
    skip("(");
    for (; !isNext(")"); isNext(",") && at++) {
      const name = tokens[at]?.[2];
      // What a `load` names has no name of its own.
      if (name === undefined) {
        value();
        continue;
      }
      at++;
      skip("=");
      attributes[name] = value();
    }
    skip(")");
    rules.push({ kind, name: attributes.name?.[0] ?? "", attributes });
  }
  return rules;
}
