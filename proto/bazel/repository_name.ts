/**
 * Whether a name in `external` of an output base is a repository's. What else stands there is a server's knowledge of them
 * (`@NAME.marker`, `NAME.recorded_inputs`), and is for nobody but the server itself.
 */
export function isRepositoryName(name: string): boolean {
  return /^[A-Za-z0-9_+][\w.~+-]*$/.test(name) && !/\.(marker|recorded_inputs)$/i.test(name);
}
