import { readFileSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';

/**
 * Reads the elements' sources with the custom-elements analyzer. `npm run docs` writes docs/element.md from what it finds,
 * `--check` fails when that is not what is there; `--package` writes the manifest that editors and catalogues read.
 */
const PAGE = 'docs/element.md';
const FOUND = 'build/elements';
const MANIFEST = 'build/package/custom-elements.json';
/** Sources and the package's modules that define them. */
const MODULES: Record<string, string> = {
  'components/linux-vm.ts': 'build/package/element.js',
  'components/linux-vm-terminal.ts': 'build/package/element.js',
  'components/linux-vm-workbench.ts': 'build/package/workbench.js',
};

interface Named {
  name: string;
  description?: string;
  default?: string;
  type?: { text: string };
}
interface Member extends Named {
  kind: 'field' | 'method';
  privacy?: 'public' | 'private' | 'protected';
  readonly?: boolean;
  static?: boolean;
  attribute?: string;
  parameters?: (Named & { optional?: boolean; default?: string })[];
  return?: { type?: { text: string } };
  inheritedFrom?: { name: string };
}
interface Declaration extends Named {
  tagName?: string;
  customElement?: boolean;
  attributes?: (Named & { fieldName?: string })[];
  events?: Named[];
  slots?: Named[];
  cssParts?: Named[];
  cssProperties?: Named[];
  members?: Member[];
}
interface Manifest {
  modules: { path: string; declarations?: Declaration[]; exports?: { declaration?: { module?: string } }[] }[];
}

const { values } = parseArgs({
  options: { check: { type: 'boolean', default: false }, package: { type: 'boolean', default: false } },
});

const { status, stderr } = spawnSync(
  'node_modules/.bin/cem',
  ['analyze', '--litelement', '--quiet', '--globs', 'components/*.ts', '--outdir', FOUND],
  { encoding: 'utf8' },
);
if (status !== 0) throw new Error(`the analyzer failed: ${stderr}`);
const manifest = JSON.parse(readFileSync(`${FOUND}/custom-elements.json`, 'utf8')) as Manifest;

if (values.package) {
  // Only what the package exports, under the names of its own files.
  const modules = manifest.modules.filter(({ path }) => path in MODULES);
  const text = JSON.stringify({ ...manifest, modules });
  const renamed = Object.entries(MODULES).reduce(
    (all, [from, to]) => all.replaceAll(`"${from}"`, `"${to.replace('build/package/', '')}"`),
    text,
  );
  writeFileSync(MANIFEST, renamed);
} else {
  const options = (await resolveConfig(PAGE)) ?? {};
  const text = await format(page(manifest), { ...options, parser: 'markdown' });
  if (!values.check) writeFileSync(PAGE, text);
  else if (readFileSync(PAGE, 'utf8') !== text) {
    process.stderr.write(`${PAGE} is not what the elements' sources say: run "npm run docs"\n`);
    process.exitCode = 1;
  }
}

function page({ modules }: Manifest): string {
  const elements = Object.keys(MODULES).flatMap(
    (path) => modules.find((m) => m.path === path)?.declarations?.filter((d) => d.customElement) ?? [],
  );
  return [
    '# The elements',
    'Written by `npm run docs` from the sources in `components/`; the package has the same as `custom-elements.json`.',
    ...elements.flatMap(section),
  ].join('\n\n');
}

function section(element: Declaration): string[] {
  const members = (element.members ?? []).filter(
    (m) => m.privacy !== 'private' && m.privacy !== 'protected' && !m.static && !m.name.startsWith('_'),
  );
  const attributes = (element.attributes ?? []).map((attribute) => {
    const field = members.find(({ name }) => name === attribute.fieldName);
    return [
      `\`${attribute.name}\``,
      attribute.fieldName === attribute.name ? '' : code(attribute.fieldName),
      code(attribute.type?.text ?? field?.type?.text),
      code(attribute.default ?? field?.default),
      words(attribute.description ?? field?.description),
    ];
  });
  const fields = members.filter(
    ({ kind, name, attribute }) =>
      kind === 'field' && attribute === undefined && !element.attributes?.some((a) => a.fieldName === name),
  );
  const methods = members.filter(({ kind, description }) => kind === 'method' && description);
  const signature = (m: Member): string =>
    `${m.name}(${(m.parameters ?? []).map((p) => `${p.name}${p.optional ? '?' : ''}`).join(', ')})`;
  const list = (
    title: string,
    items: Named[] | undefined,
    name = (item: Named): string => code(item.name),
  ): string[] =>
    items?.length
      ? [
          `### ${title}`,
          table(
            ['', ''],
            items.map((item) => [name(item), words(item.description)]),
          ),
        ]
      : [];
  return [
    `## \`<${element.tagName}>\``,
    element.description ?? '',
    ...(attributes.length
      ? ['### Attributes', table(['Attribute', 'Property', 'Type', 'Default', ''], attributes)]
      : []),
    ...list('Properties', fields),
    ...list('Methods', methods, (item) => code(signature(item as Member))),
    ...list('Events', element.events),
    ...list('Slots', element.slots, ({ name }) => (name ? code(name) : 'default')),
    ...list('CSS parts', element.cssParts),
    ...list('CSS custom properties', element.cssProperties),
  ];
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

function code(text: string | undefined): string {
  return text ? `\`${text.replaceAll('|', '\\|').replaceAll('\n', ' ')}\`` : '';
}

function words(text: string | undefined): string {
  return (text ?? '').replaceAll('\n', ' ').replaceAll('|', '\\|');
}
