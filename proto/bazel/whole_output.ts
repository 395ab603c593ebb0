/**
 * Whether a folder is an output, or a part of an external repository, and comes home with all that is in it: a tree
 * artifact, runfiles, a test's outputs. Others hold the outputs of many targets, those of earlier commands among them:
 *
 *     execroot/<workspace>/bazel-out/<configuration>/bin
 *
 * The agent names all of such a folder or nothing; so what it does not name of one is not there any more.
 *
 * @param path Relative to the output base.
 */
export function isWholeOutput(path: string): boolean {
  const [first, second, third, ...below] = path.split("/");
  if (first === "external") return second !== undefined;
  if (first !== "execroot" || third === undefined) return false;
  if (third === "bazel-out") return below.length > 2;
  return third !== "external" || below.length > 0;
}
