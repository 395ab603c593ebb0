import type { AuthorityFiles } from "../identity/certificate_authority.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

/** Which of ASN.1's strings a name is written in: the masks of OpenSSL's `string_mask`. */
const STRINGS = { utf8only: "utf8only", pkix: "pkix", bmp: "MASK:0x800", teletex: "MASK:0x4" };

/**
 * An authority as `openssl req -x509` makes it.
 *
 * @param subject As `-subj` takes it.
 * @param strings "default": with the machine's own openssl.cnf, and nothing else said.
 */
export async function opensslAuthority(
  subject: string,
  strings: "default" | keyof typeof STRINGS = "default",
): Promise<AuthorityFiles> {
  await using directory = await tempDir();
  const [key, certificate, config] = ["key.pem", "ca.pem", "openssl.cnf"].map((name) => directory.join(name));
  const own = strings === "default" ? [] : ["-config", config];
  if (strings !== "default") {
    const lines = [
      ...["[req]", "distinguished_name = name", "x509_extensions = authority", `string_mask = ${STRINGS[strings]}`],
      ...["[name]", "[authority]", "basicConstraints = critical, CA:TRUE", "subjectKeyIdentifier = hash"],
    ];
    await Deno.writeTextFile(config, lines.join("\n") + "\n");
  }
  const { success, stderr } = await new Deno.Command("openssl", {
    args: [
      ...["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-utf8", "-multivalue-rdn"],
      ...["-keyout", key, "-out", certificate, "-subj", subject, ...own],
    ],
    stdin: "null",
  }).output();
  if (!success) throw new Error(`openssl made no authority: ${new TextDecoder().decode(stderr)}`);
  return { certificate: await Deno.readTextFile(certificate), privateKey: await Deno.readTextFile(key) };
}
