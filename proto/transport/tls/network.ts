/**
 * By what an address is counted. Whoever has one of IPv6 has all of its network (64 bits, RFC 4291), which is the first four
 * of its eight groups; an address of IPv4, mapped or not, is its own.
 *
 * @param address As the system writes it.
 */
export function networkOf(address: string): string {
  if (address.includes(".")) return address;
  const groups = (part: string) => part === "" ? [] : part.split(":");
  const [before, after] = address.replace(/%.*/, "").split("::").map(groups);
  const between = after === undefined ? 0 : 8 - before.length - after.length;
  const all = [...before, ...Array<string>(between).fill("0"), ...after ?? []];
  return all.slice(0, 4).map((group) => parseInt(group, 16).toString(16)).join(":");
}
