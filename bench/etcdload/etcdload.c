/* A load generator for etcd's API whose own cost is small: one thread, epoll, nghttp2; over plaintext or TLS, the same for any server.
 *
 *   etcdload unary HOST PORT --method=put|txn|range|serializable|page|grant|revoke [options]
 *   etcdload watch HOST PORT [options]    watchers of one key; each line of stdin, a number: so many puts of it
 *   etcdload renew HOST PORT [options]    keep-alives of --keys leases from --first on
 *
 *   --connections=N --streams=N           of each connection
 *   --requests=N | --until-input          how many, or until a line of stdin
 *   --rate=N                              a second, whatever comes back; 0: the next one when one is answered
 *   --prefix=TEXT --keys=N --first=N      keys are PREFIX and eight digits, from --first on, again after --keys
 *   --value-bytes=N --ops=N --limit=N --ttl=N --watchers=N --depth=N --timeout-ms=N --tls --hold
 *
 *   --deaf                                asks and reads no answer until a line of stdin
 *
 * Each phase is told by a line of JSON. --hold: connections stay until the end of stdin. Every answer is looked at: errors are counted by
 * their texts, a stream that ends when it should not ends the program. */
#include <signal.h>

#include "streams.h"

static int hold;

static void take_option(const char *word) {
  struct {
    const char *name;
    int64_t *into;
  } numbers[] = {{"connections", &given.connections}, {"streams", &given.streams}, {"requests", &given.requests},
                 {"value-bytes", &given.value_bytes}, {"keys", &given.keys}, {"first", &given.first}, {"limit", &given.limit},
                 {"ops", &given.ops}, {"ttl", &given.ttl}, {"depth", &given.depth}, {"rate", &given.rate},
                 {"watchers", &given.watchers}, {"timeout-ms", &given.timeout_ms}};
  const char *value = strchr(word, '=');
  if (!strcmp(word, "--tls")) given.tls = 1;
  else if (!strcmp(word, "--until-input")) given.until_input = 1;
  else if (!strcmp(word, "--hold")) hold = 1;
  else if (!strcmp(word, "--deaf")) given.deaf = 1;
  else if (!strncmp(word, "--method=", 9)) given.method = value + 1;
  else if (!strncmp(word, "--prefix=", 9)) given.prefix = value + 1;
  else {
    for (size_t index = 0; value && index < sizeof numbers / sizeof *numbers; index++)
      if (!strncmp(word, "--", 2) && strlen(numbers[index].name) == (size_t)(value - word - 2) &&
          !strncmp(word + 2, numbers[index].name, (size_t)(value - word - 2))) {
        *numbers[index].into = atoll(value + 1);
        return;
      }
    die("no option %s", word);
  }
}

int main(int count, char **words) {
  if (count < 4) die("usage: etcdload unary|watch|renew HOST PORT [options]");
  given.host = words[2];
  given.port = atoi(words[3]);
  for (int index = 4; index < count; index++) take_option(words[index]);
  if (given.connections < 1 || given.streams < 1 || given.keys < 1 || given.value_bytes < 0) die("a number is too small");
  signal(SIGPIPE, SIG_IGN);
  net_begin(given.tls);
  if (!strcmp(words[1], "unary")) load_unary();
  else if (!strcmp(words[1], "watch")) load_watch();
  else if (!strcmp(words[1], "renew")) load_renew();
  else die("no load %s", words[1]);
  while (hold && loop_line()) {
  }
  return 0;
}
