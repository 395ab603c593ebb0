/**
 * Makes a bundle safe to be made small: esbuild, as in Deno 2.9.6, puts the value of a variable that is used once into the
 * statement after it, that of a `using` as well, and then nobody disposes of it.
 *
 * It does so with the last variable of a statement. So each statement gets another one that nobody uses.
 *
 * @param bundle What `deno bundle` has made without `--minify`. Throws an Error where it is written in another way.
 */
export function keepUsing(bundle: string): string {
  const lines = bundle.split("\n");
  let count = 0;
  for (let at = 0; at < lines.length; at++) {
    const indent = /^(\s*)(?:await )?using [\w$]+ = /.exec(lines[at])?.[1];
    if (indent === undefined) continue;
    const isEnd = (line: string) => line.endsWith(";") && line.startsWith(indent) && line.charAt(indent.length) !== " ";
    while (at < lines.length && !isEnd(lines[at])) at++;
    if (at === lines.length) throw new Error("a bundle has a `using` whose end is not seen: see tools/keep_using.ts");
    lines[at] = `${lines[at].slice(0, -1)}, kept${count++} = null;`;
  }
  return lines.join("\n");
}
