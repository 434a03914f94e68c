// Strings: words counted in a hash table with chains, numbers printed and read back by the C library, a search for
// substrings, and a balanced tree of strings (a treap).
#include "bench.h"

#define WORDS 20000
static char words[WORDS][16];

static void make_words(void)
{
    for (int i = 0; i < WORDS; i++) {
        int n = 3 + rng() % 10;
        for (int k = 0; k < n; k++) words[i][k] = 'a' + (rng() >> 8) % 26;
    }
}

struct entry { struct entry *next; uint32_t count; char key[16]; };

static uint32_t text_hash(uint32_t n)
{
    static struct entry *table[8192];
    uint32_t h = 0;
    while (n--) {
        memset(table, 0, sizeof table);
        for (int i = 0; i < 4 * WORDS; i++) {
            const char *w = words[rng() % WORDS];
            uint32_t k = 2166136261u;
            for (const char *p = w; *p; p++) k = (k ^ (uint8_t)*p) * 16777619u;
            struct entry **e = &table[k & 8191];
            while (*e && strcmp((*e)->key, w)) e = &(*e)->next;
            if (!*e) { *e = calloc(1, sizeof **e); strcpy((*e)->key, w); }
            (*e)->count++;
        }
        for (int i = 0; i < 8192; i++)
            for (struct entry *e = table[i], *next; e; e = next) {
                next = e->next;
                h = h * 31 + e->count + (uint8_t)e->key[0];
                free(e);
            }
    }
    return h;
}

static uint32_t text_format(uint32_t n)
{
    char line[128];
    uint32_t h = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = rng();
        int k = snprintf(line, sizeof line, "%u %08x %s %d.%03u\n", r, r ^ i, words[r % WORDS], (int)(r >> 20) - 2048, r % 1000);
        char *end;
        h = h * 31 + (uint32_t)k + (uint32_t)strtoul(line, &end, 10) + (uint32_t)strtoul(end, 0, 16);
    }
    return h;
}

static uint32_t text_search(uint32_t n)
{
    static char hay[65536];
    uint32_t h = 0;
    for (uint32_t at = 0, i = 0; at < sizeof hay - 20; i++) at += (uint32_t)snprintf(hay + at, 20, "%.15s ", words[i]);
    while (n--) {
        const char *needle = words[rng() % (WORDS / 2)];
        // By hand: the C library's depends on CPUID.
        size_t k = strlen(needle);
        for (const char *p = hay; *p; p++)
            if (*p == *needle && !strncmp(p, needle, k)) { h += (uint32_t)(p - hay); break; }
    }
    return h;
}

struct node { struct node *left, *right; uint32_t priority; const char *key; };

static struct node *insert(struct node *t, struct node *n)
{
    if (!t) return n;
    int c = strcmp(n->key, t->key);
    if (!c) return t;
    if (c < 0) {
        t->left = insert(t->left, n);
        if (t->left->priority > t->priority) { struct node *l = t->left; t->left = l->right; l->right = t; return l; }
    } else {
        t->right = insert(t->right, n);
        if (t->right->priority > t->priority) { struct node *r = t->right; t->right = r->left; r->left = t; return r; }
    }
    return t;
}
static uint32_t walk(const struct node *t, uint32_t h)
{
    if (!t) return h;
    h = walk(t->left, h);
    h = h * 31 + (uint8_t)t->key[1];
    return walk(t->right, h);
}
static uint32_t text_tree(uint32_t n)
{
    static struct node nodes[WORDS];
    uint32_t h = 0;
    while (n--) {
        struct node *root = 0;
        memset(nodes, 0, sizeof nodes);
        for (int i = 0; i < WORDS; i++) {
            nodes[i].priority = rng(), nodes[i].key = words[i];
            root = insert(root, nodes + i);
        }
        h = walk(root, h);
    }
    return h;
}

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    make_words();
    run_bench("text_hash", 5, 2, text_hash);
    run_bench("text_format", 5, 60000, text_format);
    run_bench("text_search", 5, 500, text_search);
    run_bench("text_tree", 5, 2, text_tree);
    return 0;
}
