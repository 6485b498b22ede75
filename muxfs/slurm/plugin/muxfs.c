/* SPANK plugin: --tunnel=[L|R]PORT:[HOST:]PORT,... for srun, sbatch and salloc.
 *
 * It checks the list, says what it means, and starts `muxfs slurm follow` on the submission
 * host and `muxfs slurm serve` in the job, both as the user; they do all the rest. What can
 * be wrong with them is a warning: no job fails or waits because of its tunnel.
 *
 *   srun      local_user_init: follow.   task_init of its task 0: serve
 *   sbatch    init_post_opt:   follow.   task_init of the batch script: serve
 *             (the last task_exit ends serve; if that fails, Slurm does, with the step)
 *   salloc    init_post_opt:   follow, which starts serve as a step of its own
 *
 * Helpers are forked nowhere else: in task_init they are in the step's cgroup, and end with
 * it; in user_init and task_post_fork they would outlive the job. On the submission host
 * nothing ends them: they watch the process that they are told (--submitter), and the job.
 * The variable SLURM_MUXFS tells commands within the job that it has its tunnel: they get
 * the option once more, by their environment.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The list. The same syntax and meaning are in muxfs/slurm/plan.py. ---- */

#define LEAST_PORT 1024 /* users cannot listen below it */

struct item {
	char letter;       /* 'L', 'R', or 0 */
	const char *port;  /* where is listened; all of these point into the list */
	size_t port_len;
	const char *host;  /* NULL for localhost */
	size_t host_len;
	const char *to;
	size_t to_len;
};

/* Read a port's number at *at, and step over it; -1 if there is none. */
static long read_port(const char **at, const char *end)
{
	long value = 0;
	const char *start = *at;

	while (*at < end && isdigit((unsigned char)**at) && *at - start < 5)
		value = value * 10 + (*(*at)++ - '0');
	return *at == start || value > 65535 ? -1 : value;
}

static bool is_host(const char *text, size_t length)
{
	const char *more = "._-";

	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++, length -= 2, more = ":."; /* IPv6 */
	}
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];
		if (!isalnum(c) && c < 0x80 && (!c || !strchr(more, c)))
			return false;
	}
	return length > 0 && length <= 253;
}

static const char *parse_item(const char *text, size_t length, struct item *item)
{
	const char *at = text, *end = text + length, *colon;
	long port;

	*item = (struct item){0};
	if (at < end && *at == '-')
		at++;
	if (at < end && (*at == 'L' || *at == 'R'))
		item->letter = *at++;
	item->port = at;
	port = read_port(&at, end);
	item->port_len = (size_t)(at - item->port);
	if (port < 0 || at == end || *at++ != ':')
		return "it must be [L|R]PORT:[HOST:]PORT";
	if (port > 0 && port < LEAST_PORT)
		return "only root can listen on a port below 1024";
	colon = memrchr(at, ':', (size_t)(end - at));
	if (colon) {
		item->host = at;
		item->host_len = (size_t)(colon - at);
		at = colon + 1;
		if (!is_host(item->host, item->host_len))
			return "this is not a host name";
	}
	item->to = at;
	if (read_port(&at, end) < 1 || at != end)
		return "it must be [L|R]PORT:[HOST:]PORT";
	item->to_len = (size_t)(at - item->to);
	return NULL;
}

/* Give each item of a list to `use`. Returns NULL, or what is wrong with one of them. */
static const char *parse_list(const char *list,
			      void (*use)(const struct item *, void *), void *context)
{
	for (;;) {
		size_t length = strcspn(list, ","), left = length;
		const char *start = list, *wrong;
		struct item item;

		while (left && isblank((unsigned char)*start))
			start++, left--;
		while (left && isblank((unsigned char)start[left - 1]))
			left--;
		wrong = parse_item(start, left, &item);
		if (wrong)
			return wrong;
		if (use)
			use(&item, context);
		if (!list[length])
			return NULL;
		list += length + 1;
	}
}

#ifndef MUXFS_ONLY_THE_LIST
#include <slurm/spank.h>

SPANK_PLUGIN(muxfs, 1);

#ifndef MUXFS_COMMAND
#define MUXFS_COMMAND "/usr/bin/muxfs" /* `muxfs slurm build-plugin` says its own */
#endif

#define MARK "SLURM_MUXFS"
#define TOKEN "MUXFS_TOKEN" /* in the job: with SLURM_SPANK_ before it */
#define LIST "MUXFS_TUNNEL" /* likewise */
#define SUPERVISOR "MUXFS_SLURMSTEPD" /* tells its number; see muxfs/slurm/own.py */
#define MOST_WORDS 32
#define BATCH_STEP 0xfffffffbu       /* SLURM_BATCH_SCRIPT, slurm.h */
#define JOB_TOKEN "SLURM_SPANK_" TOKEN "="
#define JOB_LIST "SLURM_SPANK_" LIST "="
#define OPTION "_SLURM_SPANK_OPTION_muxfs_tunnel" /* how Slurm hands the option on */
#define LEAST_SPECIAL_STEP 0xfffffff0u

static char *list;                    /* what the user gave, or NULL */
static char *from_outside;            /* what the environment had before, or NULL */
static char *command_words;           /* muxfs=, with its words separated by zeros */
static const char *words_of_muxfs[8]; /* they, and NULL */
static char *arguments, *directory, *helper_arguments;
static volatile pid_t *in_job; /* the helper in the job, shared with the tasks until they exec */
static uint32_t tasks_left;
static bool submitted;    /* sbatch and salloc come here for each component of a job: once */
static bool starts;       /* this step is the one that has the tunnel */
static const char *job_token; /* of the batch job that this is, or NULL */

static char *setting(const char *value)
{
	char *copy = strdup(value);

	for (char *c = copy; c && *c; c++)
		if (*c == '|')
			*c = ' ';
	return copy;
}

static void read_settings(int count, char **words)
{
	const struct {
		const char *name;
		char **place;
	} known[] = {{"muxfs=", &command_words},
		     {"args=", &arguments},
		     {"dir=", &directory},
		     {"helpertask_args=", &helper_arguments}};

	for (int i = 0; i < count; i++) {
		bool found = false;
		for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
			size_t length = strlen(known[k].name);
			if (strncmp(words[i], known[k].name, length))
				continue;
			free(*known[k].place);
			*known[k].place = setting(words[i] + length);
			found = true;
		}
		if (!found)
			slurm_error("muxfs: plugstack.conf: unknown option %s", words[i]);
	}
	if (!command_words)
		command_words = strdup(MUXFS_COMMAND);
	char *rest = NULL, *word = command_words ? strtok_r(command_words, " ", &rest) : NULL;
	for (size_t n = 0; word && n + 1 < sizeof words_of_muxfs / sizeof *words_of_muxfs; n++) {
		words_of_muxfs[n] = word;
		word = strtok_r(NULL, " ", &rest);
	}
}

/* ---- Saying what the list means. ---- */

struct hosts {
	char outward; /* the letter for: the submission host listens */
	bool probed;  /* whether ports that are taken here are told */
	const char *name;
	char here[256];
};

/* Whether somebody listens on the port, on a loopback address of this host. */
static bool is_taken(uint16_t port)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port),
				  .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	bool taken = false;

	for (int six = 0; six < 2; six++) {
		int one = 1, probe = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (probe < 0)
			continue;
		setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(probe, six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
			 six ? sizeof v6 : sizeof v4))
			taken |= errno == EADDRINUSE;
		close(probe);
	}
	return taken;
}

static void explain(const struct item *item, void *context)
{
	const struct hosts *hosts = context;
	const char *job = "the job's first node";
	bool outward = !item->letter || item->letter == hosts->outward;
	bool any = item->port_len == strspn(item->port, "0");

	slurm_info("muxfs: %s%.*s of %s leads to %.*s:%.*s, as %s sees it", any ? "a free port" : "port ",
		   any ? 0 : (int)item->port_len, item->port, outward ? hosts->here : job,
		   item->host ? (int)item->host_len : 9, item->host ? item->host : "localhost",
		   (int)item->to_len, item->to, outward ? job : hosts->here);
	if (hosts->probed && outward && !any && is_taken((uint16_t)atoi(item->port)))
		slurm_info("muxfs: port %.*s of %s is in use now: if it still is when the job runs, a "
			   "free one is taken in its place, which muxfs status shows",
			   (int)item->port_len, item->port, hosts->name);
}

/* probed: what the helper of sbatch notices later reaches no terminal */
static void explain_all(char outward, bool probed)
{
	char name[200] = "";
	struct hosts hosts = {.outward = outward, .probed = probed, .name = name};

	gethostname(name, sizeof name - 1);
	snprintf(hosts.here, sizeof hosts.here, "%s (this host)", name);
	parse_list(list, explain, &hosts);
}

/* ---- Starting a helper. ---- */

struct words {
	const char *word[MOST_WORDS + 1];
	int count;
	char *made[MOST_WORDS]; /* those of them that are to be freed */
	int made_count;
};

static void add(struct words *words, const char *word)
{
	if (word && words->count < MOST_WORDS)
		words->word[words->count++] = word;
}

/* Add OPTION=VALUE as one word, since values may begin with a dash. */
static void add_option(struct words *words, const char *option, const char *value)
{
	char *word = NULL;

	if (value && asprintf(&word, "%s=%s", option, value) >= 0)
		add(words, words->made[words->made_count++] = word);
}

static void add_number(struct words *words, const char *option, unsigned long value)
{
	char text[32];

	snprintf(text, sizeof text, "%lu", value);
	add_option(words, option, text);
}

static void add_all(struct words *words, const char *action, const char *command)
{
	for (const char **word = words_of_muxfs; *word; word++)
		add(words, *word);
	add(words, "slurm");
	add(words, action);
	add(words, command);
	add_option(words, "--tunnel", list);
	add_option(words, "--dir", directory ? directory : "%h/.muxfs");
	add_option(words, "--args", arguments);
	add_option(words, "--helpertask-args", helper_arguments);
}

/* From here to the exec only what is safe in a signal handler, as the process had threads. */

static const char *reason(int error)
{
	switch (error) {
	case ENOENT:
		return "No such file or directory";
	case ENOTDIR:
		return "Not a directory";
	case EACCES:
		return "Permission denied";
	case ENOEXEC:
		return "Exec format error";
	case EIO:
		return "Input/output error";
	case ESTALE:
		return "Stale file handle";
	case EAGAIN:
		return "Resource temporarily unavailable";
	case ENOMEM:
		return "Cannot allocate memory";
	default:
		return "it cannot be started";
	}
}

static void warn(int to, const char *path, int error)
{
	const char *parts[] = {"muxfs: no tunnel: ", path, ": ", reason(error),
			       "; the job is not affected\n"};
	struct iovec vector[sizeof parts / sizeof *parts];
	int count = 0;

	for (; count < (int)(sizeof parts / sizeof *parts); count++)
		vector[count] = (struct iovec){(void *)parts[count], strlen(parts[count])};
	ssize_t written = writev(to, vector, count);
	(void)written;
}

static void become(const char *path, const struct words *words, char **environment, bool silent)
{
	int null = open("/dev/null", O_RDWR), told;
	sigset_t none;

	setsid();
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(null, 0);
	dup2(null, 1);
	told = dup3(2, 3, O_CLOEXEC); /* null may have been there */
	if (silent)
		dup2(0, 2);
	for (int number = told < 0 ? 3 : 4; number < 4096; number++)
		close(number);
	execve(path, (char **)words->word, environment);
	warn(told, path, errno);
	_exit(127);
}

/* Copy the environment, without what modules set for the Python of the user's own programs:
 * the helper's would not start with it. supervisor: NULL, or what is added. */
static char **for_helper(char **environment, char *supervisor)
{
	size_t count = 0, kept = 0;

	while (environment[count])
		count++;
	char **made = calloc(count + 2, sizeof *made);
	for (size_t i = 0; made && i < count; i++)
		if (strncmp(environment[i], "PYTHON", strlen("PYTHON")))
			made[kept++] = environment[i];
	if (made)
		made[kept] = supervisor;
	return made;
}

/* Start the helper as a process that nobody has to wait for. Its file is touched by that
 * process alone: a filesystem that hangs keeps no job from running. */
static void start(struct words *words, char **environment, bool silent, char *supervisor)
{
	const char *path = words->word[0];
	char **its_own = for_helper(environment, supervisor);
	pid_t child = -1;

	errno = its_own ? EINVAL : ENOMEM;
	/* the path is absolute: what a user's directory has must not be found by chance */
	if (its_own && path && path[0] == '/')
		child = fork();
	if (child == 0) {
		pid_t helper = fork();
		if (helper == 0)
			become(path, words, its_own, silent);
		if (helper < 0)
			warn(2, path, errno);
		if (in_job)
			*in_job = helper;
		_exit(0);
	}
	if (child < 0)
		slurm_error("muxfs: no tunnel: %s: %s; the job is not affected",
			    path ? path : "muxfs=",
			    errno == EINVAL ? "this is not an absolute path" : reason(errno));
	while (words->made_count)
		free(words->made[--words->made_count]);
	free(its_own);
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

extern char **environ;

static bool make_token(char *token, size_t size)
{
	unsigned char bytes[8];
	int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	bool ok = file >= 0 && read(file, bytes, sizeof bytes) == sizeof bytes;

	if (file >= 0)
		close(file);
	for (size_t i = 0; ok && i < sizeof bytes; i++)
		snprintf(token + 2 * i, size - 2 * i, "%02x", bytes[i]);
	return ok;
}

/* ---- On the submission host. ---- */

static void submitted_by_sbatch(spank_t spank)
{
	char token[17] = "";
	struct words words = {0};

	explain_all('R', true);
	setenv(MARK, "start", 1);
	if (!make_token(token, sizeof token) ||
	    spank_job_control_setenv(spank, TOKEN, token, 1) != ESPANK_SUCCESS ||
	    spank_job_control_setenv(spank, LIST, list, 1) != ESPANK_SUCCESS) {
		slurm_error("muxfs: no tunnel: no token; the job is not affected");
		return;
	}
	add_all(&words, "follow", "sbatch");
	add_option(&words, "--token", token);
	add_number(&words, "--submitter", (unsigned long)getpid());
	add_number(&words, "--session", (unsigned long)getsid(0));
	start(&words, environ, true, NULL);
}

static void submitted_by_salloc(void)
{
	struct words words = {0};

	explain_all('R', false);
	setenv(MARK, "inside", 1); /* for the shell's own step, and for each srun */
	add_all(&words, "follow", "salloc");
	add(&words, "--start-serve");
	add_number(&words, "--submitter", (unsigned long)getpid());
	start(&words, environ, false, NULL);
}

static void submitted_by_srun(spank_t spank)
{
	uint32_t job_id, step_id;
	struct words words = {0};

	if (spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS)
		return;
	explain_all('L', false);
	add_all(&words, "follow", "srun");
	add_number(&words, "--submitter", (unsigned long)getpid());
	add_number(&words, "--job", job_id);
	if (step_id)
		add_number(&words, "--step", step_id);
	start(&words, environ, false, NULL);
}

/* ---- What Slurm calls. ---- */

static int take_option(int value, const char *given, int remote)
{
	const char *wrong = given ? parse_list(given, NULL, NULL) : "the list is missing";

	(void)value;
	if (remote && wrong)
		return 0; /* nothing may fail on a node */
	if (wrong) {
		slurm_error("--tunnel=%s: %s", given ? given : "", wrong);
		return -1;
	}
	if (list && !remote && strcmp(list, given)) {
		slurm_error("--tunnel: give it once, with commas between the tunnels");
		return -1;
	}
	free(list);
	list = strdup(given);
	return 0;
}

static struct spank_option options[] = {
	{"tunnel", "[L|R]port:[host:]port,...",
	 "ports of this host that lead to the job, or of the job that lead here (muxfs)", 1, 0,
	 take_option},
	SPANK_OPTIONS_TABLE_END};

int slurm_spank_init(spank_t spank, int count, char **words)
{
	spank_context_t context = spank_context();

	if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
		return 0;
	read_settings(count, words);
	if (getenv(OPTION))
		from_outside = strdup(getenv(OPTION)); /* srun sets its own there later */
	if (spank_option_register(spank, options) != ESPANK_SUCCESS)
		slurm_error("muxfs: cannot add the option --tunnel");
	return 0;
}

/* With sbatch --export=NONE neither the option nor the mark reaches the job; what job control
 * sets does. Returns whether this is the batch script of a job with a tunnel. */
static bool in_batch_script(spank_t spank)
{
	uint32_t step = 0;
	char **environment = NULL;
	const char *given = NULL;

	if (spank_get_item(spank, S_JOB_STEPID, &step) != ESPANK_SUCCESS || step != BATCH_STEP ||
	    spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS || !environment)
		return false;
	for (; *environment; environment++) {
		if (!strncmp(*environment, JOB_TOKEN, strlen(JOB_TOKEN)))
			job_token = strdup(*environment + strlen(JOB_TOKEN));
		if (!strncmp(*environment, JOB_LIST, strlen(JOB_LIST)))
			given = *environment + strlen(JOB_LIST);
	}
	if (!list && given && !parse_list(given, NULL, NULL))
		list = strdup(given);
	return list && job_token;
}

/* What a job submits in its turn has a tunnel only if it asks for one: sbatch hands on its
 * whole environment, and many scripts submit themselves again. */
static void keep_to_this_job(spank_t spank)
{
	spank_setenv(spank, MARK, "inside", 1);
	spank_unsetenv(spank, OPTION);
	spank_unsetenv(spank, "SLURM_SPANK_" OPTION);
	spank_unsetenv(spank, "SLURM_SPANK_" TOKEN);
	spank_unsetenv(spank, "SLURM_SPANK_" LIST);
}

/* Whether the option is that of the salloc whose shell this is, for its own commands. */
static bool inherited(void)
{
	const char *mark = getenv(MARK);

	return from_outside && mark && !strcmp(mark, "inside") && !strcmp(from_outside, list);
}

int slurm_spank_init_post_opt(spank_t spank, int count, char **words)
{
	char mark[16] = "";

	(void)count, (void)words;
	bool batch = spank_context() == S_CTX_REMOTE && in_batch_script(spank);
	if (!list || submitted)
		return 0;
	switch (spank_context()) {
	case S_CTX_LOCAL:
		starts = !getenv(MARK);
		if (!starts && !inherited())
			slurm_info("muxfs: --tunnel is ignored: this job has a tunnel already; give "
				   "all ports where the job is submitted");
		setenv(MARK, starts ? "start" : "inside", 1);
		break;
	case S_CTX_ALLOCATOR:
		submitted = true;
		if (inherited())
			break;
		if (!strcmp(program_invocation_short_name, "salloc"))
			submitted_by_salloc();
		else
			submitted_by_sbatch(spank);
		break;
	case S_CTX_REMOTE:
		spank_getenv(spank, MARK, mark, sizeof mark);
		starts = batch || !strcmp(mark, "start");
		if (spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &tasks_left) == ESPANK_SUCCESS) {
			void *page = mmap(NULL, sizeof *in_job, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
			in_job = page == MAP_FAILED ? NULL : page;
		}
		keep_to_this_job(spank);
		break;
	default:
		break;
	}
	return 0;
}

int slurm_spank_local_user_init(spank_t spank, int count, char **words)
{
	(void)count, (void)words;
	if (list && starts)
		submitted_by_srun(spank);
	return 0;
}

int slurm_spank_task_init(spank_t spank, int count, char **unused)
{
	uint32_t task = 0, step_id = 0;
	char **environment = NULL, supervisor[sizeof SUPERVISOR + 32];
	struct words words = {0};

	(void)count, (void)unused;
	if (!list || !starts || spank_get_item(spank, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS)
		return 0;
	bool batch = step_id == BATCH_STEP;
	if (!batch && (step_id >= LEAST_SPECIAL_STEP ||
		       spank_get_item(spank, S_TASK_GLOBAL_ID, &task) != ESPANK_SUCCESS || task))
		return 0;
	if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS || !environment)
		return 0;
	add_all(&words, "serve", batch ? "sbatch" : "srun");
	if (!batch && step_id)
		add_number(&words, "--step", step_id);
	if (batch)
		add_option(&words, "--token", job_token);
	snprintf(supervisor, sizeof supervisor, SUPERVISOR "=%ld", (long)getppid());
	start(&words, environment, false, supervisor);
	return 0;
}

/* End the helper with the last task: slurmstepd takes a second to end what it finds alive. */
int slurm_spank_task_exit(spank_t spank, int count, char **words)
{
	char path[32];
	struct stat found;
	uid_t user;

	(void)count, (void)words;
	if (!in_job || *in_job <= 0 || !tasks_left || --tasks_left)
		return 0;
	snprintf(path, sizeof path, "/proc/%ld", (long)*in_job);
	if (spank_get_item(spank, S_JOB_UID, &user) != ESPANK_SUCCESS || stat(path, &found) ||
	    found.st_uid != user || getsid(*in_job) != *in_job)
		return 0; /* it has ended, and its number may be another process's */
	kill(*in_job, SIGKILL);
	for (int i = 0; i < 200 && !stat(path, &found); i++)
		usleep(1000);
	return 0;
}
#endif
