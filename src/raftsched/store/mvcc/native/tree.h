/* Keys in order: a B+-tree of handles, touched only when a key appears or disappears.

   An inner node knows the smallest handle below each child. Invariant: those are handles of keys that exist; removing a key that
   stands in an inner node replaces it there. Leaves are linked, so a range is a walk. */
#ifndef RAFTSCHED_TREE_H
#define RAFTSCHED_TREE_H

#include "entry.h"

#define LEAF_MAX 122
#define INNER_MAX 40
#define TREE_HEIGHT_MAX 16

typedef struct leaf_t {
    uint32_t count, is_leaf;
    struct leaf_t *next, *previous;
    uint32_t item[LEAF_MAX];
} leaf_t;

typedef struct {
    uint32_t count, is_leaf;
    void *child[INNER_MAX];
    uint32_t first[INNER_MAX];
} inner_t;

typedef struct {
    void *root;
    leaf_t *first_leaf;
    size_t leaf_count, inner_count, count;
} tree_t;

typedef struct { inner_t *node; uint32_t at; } step_t;
typedef struct { step_t step[TREE_HEIGHT_MAX]; int height; leaf_t *leaf; uint32_t at; } path_t;

static leaf_t *leaf_new(tree_t *tree) {
    leaf_t *leaf = malloc(sizeof *leaf);
    if (!leaf) return NULL;
    leaf->count = 0;
    leaf->is_leaf = 1;
    leaf->next = leaf->previous = NULL;
    tree->leaf_count++;
    return leaf;
}

static inner_t *inner_new(tree_t *tree) {
    inner_t *inner = malloc(sizeof *inner);
    if (!inner) return NULL;
    inner->count = inner->is_leaf = 0;
    tree->inner_count++;
    return inner;
}

static int tree_open(tree_t *tree) {
    memset(tree, 0, sizeof *tree);
    tree->root = tree->first_leaf = leaf_new(tree);
    return tree->root ? 0 : -1;
}

static void tree_free_node(void *node) {
    inner_t *inner = node;
    if (!node) return;
    if (!inner->is_leaf)
        for (uint32_t i = 0; i < inner->count; i++) tree_free_node(inner->child[i]);
    free(node);
}

static void tree_close(tree_t *tree) { tree_free_node(tree->root); }

static inline int handle_compare(const entries_t *entries, uint32_t handle, const uint8_t *key, size_t length) {
    return entry_key_compare(entries, entry_at(entries, handle), key, length);
}

/* How many of `count` ordered handles are < key (or <= key when `inclusive`). */
static uint32_t items_below(const entries_t *entries, const uint32_t *item, uint32_t count, const uint8_t *key, size_t length, int inclusive) {
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (handle_compare(entries, item[middle], key, length) < inclusive) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The place of the first key >= `key` in the leaf that would hold it; `at` may be the leaf's count. */
static void tree_seek(const tree_t *tree, const entries_t *entries, const uint8_t *key, size_t length, path_t *path) {
    void *node = tree->root;
    path->height = 0;
    while (!((inner_t *)node)->is_leaf) {
        inner_t *inner = node;
        uint32_t below = items_below(entries, inner->first, inner->count, key, length, 1);
        uint32_t at = below ? below - 1 : 0;
        path->step[path->height].node = inner;
        path->step[path->height++].at = at;
        node = inner->child[at];
    }
    path->leaf = node;
    path->at = items_below(entries, path->leaf->item, path->leaf->count, key, length, 0);
}

static void inner_insert(inner_t *inner, uint32_t at, void *child, uint32_t first) {
    memmove(inner->child + at + 1, inner->child + at, (inner->count - at) * sizeof *inner->child);
    memmove(inner->first + at + 1, inner->first + at, (inner->count - at) * sizeof *inner->first);
    inner->child[at] = child;
    inner->first[at] = first;
    inner->count++;
}

static int tree_new_root(tree_t *tree, void *left, uint32_t left_first, void *right, uint32_t right_first) {
    inner_t *root = inner_new(tree);
    if (!root) return -1;
    inner_insert(root, 0, left, left_first);
    inner_insert(root, 1, right, right_first);
    tree->root = root;
    return 0;
}

/* Puts `child` behind the step of each level, splitting upwards. */
static int tree_insert_child(tree_t *tree, path_t *path, void *child, uint32_t first) {
    for (int level = path->height - 1; level >= 0; level--) {
        inner_t *inner = path->step[level].node, *right;
        uint32_t at = path->step[level].at + 1, half;
        if (inner->count < INNER_MAX) {
            inner_insert(inner, at, child, first);
            return 0;
        }
        if (!(right = inner_new(tree))) return -1;
        half = at == inner->count ? inner->count - 1 : inner->count / 2; /* appending keeps nodes full */
        right->count = inner->count - half;
        memcpy(right->child, inner->child + half, right->count * sizeof *right->child);
        memcpy(right->first, inner->first + half, right->count * sizeof *right->first);
        inner->count = half;
        if (at > half) inner_insert(right, at - half, child, first);
        else inner_insert(inner, at, child, first);
        child = right;
        first = right->first[0];
        if (level == 0) return tree_new_root(tree, inner, inner->first[0], right, first);
    }
    return tree_new_root(tree, path->leaf, path->leaf->item[0], child, first);
}

static leaf_t *leaf_split(tree_t *tree, leaf_t *leaf, uint32_t at) {
    leaf_t *right = leaf_new(tree);
    uint32_t half = at == leaf->count && !leaf->next ? leaf->count : leaf->count / 2; /* appending keeps leaves full */
    if (!right) return NULL;
    right->count = leaf->count - half;
    memcpy(right->item, leaf->item + half, right->count * sizeof *right->item);
    leaf->count = half;
    right->next = leaf->next;
    right->previous = leaf;
    if (right->next) right->next->previous = right;
    leaf->next = right;
    return right;
}

/* Adds a handle whose key is not in the tree; -1 when out of memory. */
static int tree_insert(tree_t *tree, const entries_t *entries, uint32_t handle, const uint8_t *key, size_t length) {
    path_t path;
    leaf_t *leaf, *right = NULL;
    uint32_t at;
    tree_seek(tree, entries, key, length, &path);
    leaf = path.leaf;
    at = path.at;
    if (leaf->count == LEAF_MAX) {
        if (!(right = leaf_split(tree, leaf, at))) return -1;
        if (at >= leaf->count && (at > leaf->count || !right->count)) {
            at -= leaf->count;
            leaf = right;
        }
    }
    memmove(leaf->item + at + 1, leaf->item + at, (leaf->count - at) * sizeof *leaf->item);
    leaf->item[at] = handle;
    leaf->count++;
    tree->count++;
    if (at == 0 && leaf == path.leaf) /* a new smallest key of the whole tree: it is the first all the way up */
        for (int level = 0; level < path.height; level++)
            if (path.step[level].at == 0 && handle_compare(entries, path.step[level].node->first[0], key, length) > 0)
                path.step[level].node->first[0] = handle;
    return right ? tree_insert_child(tree, &path, right, right->item[0]) : 0;
}

/* The first handle under the step of `level` became `handle`. */
static void tree_renew_first(path_t *path, int level, uint32_t handle) {
    for (; level >= 0; level--) {
        path->step[level].node->first[path->step[level].at] = handle;
        if (path->step[level].at) return;
    }
}

static void tree_remove_child(tree_t *tree, path_t *path) {
    for (int level = path->height - 1; level >= 0; level--) {
        inner_t *inner = path->step[level].node;
        uint32_t at = path->step[level].at;
        inner->count--;
        memmove(inner->child + at, inner->child + at + 1, (inner->count - at) * sizeof *inner->child);
        memmove(inner->first + at, inner->first + at + 1, (inner->count - at) * sizeof *inner->first);
        if (inner->count) {
            if (at == 0 && level > 0) tree_renew_first(path, level - 1, inner->first[0]);
            break;
        }
        /* Only a node below the root can run empty: the root always has two children. */
        free(inner);
        tree->inner_count--;
    }
    while (!((inner_t *)tree->root)->is_leaf && ((inner_t *)tree->root)->count == 1) {
        void *child = ((inner_t *)tree->root)->child[0];
        free(tree->root);
        tree->inner_count--;
        tree->root = child;
    }
}

static void leaf_unlink(tree_t *tree, leaf_t *leaf) {
    if (leaf->next) leaf->next->previous = leaf->previous;
    if (leaf->previous) leaf->previous->next = leaf->next;
    else tree->first_leaf = leaf->next;
    free(leaf);
    tree->leaf_count--;
}

/* Moves a thin leaf into its left neighbour under the same parent; 1 if it did. */
static int leaf_merge(tree_t *tree, path_t *path) {
    leaf_t *leaf = path->leaf, *left;
    step_t *last;
    if (!path->height || leaf->count > LEAF_MAX / 4) return 0;
    last = &path->step[path->height - 1];
    if (!last->at) {
        /* The leftmost child has no left neighbour: take in the right one instead. */
        if (last->node->count < 2) return 0;
        left = leaf;
        leaf = last->node->child[1];
        if (left->count + leaf->count > LEAF_MAX * 3 / 4) return 0;
        last->at = 1;
    } else {
        left = last->node->child[last->at - 1];
        if (left->count + leaf->count > LEAF_MAX * 3 / 4) return 0;
    }
    memcpy(left->item + left->count, leaf->item, leaf->count * sizeof *leaf->item);
    left->count += leaf->count;
    leaf_unlink(tree, leaf);
    tree_remove_child(tree, path);
    return 1;
}

/* Removes a handle; -1 if its key is not there. */
static int tree_remove(tree_t *tree, const entries_t *entries, uint32_t handle, const uint8_t *key, size_t length) {
    path_t path;
    leaf_t *leaf;
    tree_seek(tree, entries, key, length, &path);
    leaf = path.leaf;
    if (path.at == leaf->count || leaf->item[path.at] != handle) return -1;
    leaf->count--;
    tree->count--;
    memmove(leaf->item + path.at, leaf->item + path.at + 1, (leaf->count - path.at) * sizeof *leaf->item);
    if (!leaf->count) {
        if (!path.height) return 0;
        leaf_unlink(tree, leaf);
        tree_remove_child(tree, &path);
        return 0;
    }
    if (path.at == 0) tree_renew_first(&path, path.height - 1, leaf->item[0]);
    leaf_merge(tree, &path);
    return 0;
}

static int tree_build_level(tree_t *tree, void **node, uint32_t *first, size_t *count) {
    size_t parents = 0, total = *count;
    for (size_t i = 0; i < total; parents++) {
        inner_t *inner = inner_new(tree);
        size_t take = total - i < INNER_MAX ? total - i : INNER_MAX;
        if (!inner) return -1;
        for (size_t k = 0; k < take; k++, i++) inner_insert(inner, (uint32_t)k, node[i], first[i]);
        node[parents] = inner;
        first[parents] = inner->first[0];
    }
    *count = parents;
    return 0;
}

/* Fills an empty tree from ordered handles, bottom-up. */
static int tree_build(tree_t *tree, const uint32_t *handle, size_t count) {
    size_t nodes = (count + LEAF_MAX - 1) / LEAF_MAX;
    void **node = malloc((nodes + 1) * sizeof *node);
    uint32_t *first = malloc((nodes + 1) * sizeof *first);
    leaf_t *leaf = tree->first_leaf;
    int status = node && first ? 0 : -1;
    for (size_t i = 0, done = 0; i < nodes && !status; i++) {
        if (i) {
            leaf_t *right = leaf_new(tree);
            if (!right) { status = -1; break; }
            right->previous = leaf;
            leaf->next = right;
            leaf = right;
        }
        leaf->count = (uint32_t)(count - done < LEAF_MAX ? count - done : LEAF_MAX);
        memcpy(leaf->item, handle + done, leaf->count * sizeof *handle);
        done += leaf->count;
        node[i] = leaf;
        first[i] = leaf->item[0];
    }
    while (nodes > 1 && !status) status = tree_build_level(tree, node, first, &nodes);
    if (nodes && !status) tree->root = node[0];
    tree->count = count;
    free(node);
    free(first);
    return status;
}

#endif
