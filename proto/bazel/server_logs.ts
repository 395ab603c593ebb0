/**
 * Whether a name in an output base is that of the server's own log (`java.log`, and the file that this is a link to) or of
 * a profile that Bazel makes unasked (`command.profile.gz`, `command-ID.profile.gz`).
 */
export function isServerLog(name: string): boolean {
  return /^(java\.log(\.[\w.@+-]+)?|command(-[0-9a-f-]{1,64})?\.profile\.gz)$/.test(name);
}
