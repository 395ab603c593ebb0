/**
 * Whether a directory is an output, or part of an external repository, and so is copied with everything in it: a tree
 * artifact, runfiles, a test's outputs. Other directories hold the outputs of many targets, and of earlier commands:
 *
 *     execroot/<workspace>/bazel-out/<configuration>/bin
 *
 * The agent names everything in such a directory or nothing. So what is missing from its list no longer exists.
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
