import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneId;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Kafka Streams as its docs have it: a stream of a topic, mapped, written to another. One stream thread, since what
 * it is compared with has one.
 *
 * At least once: every 100 ms it flushes its producer and then commits. No dedupe; an error in the job ends it.
 */
public final class Assign {
    static final Set<String> LANGUAGES = Set.of("fr", "ar", "so", "aa", "en");
    static final Set<String> CHANNELS = Set.of("sms", "email");

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Applicant(String name, String phone, String email, String language, String channel) {
        Applicant {
            if (language != null && !LANGUAGES.contains(language)) throw new IllegalArgumentException("language");
            if (channel != null && !CHANNELS.contains(channel)) throw new IllegalArgumentException("channel");
        }
    }

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Place(String address, String zone, Double latitude, Double longitude) {}

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Card(
            String request_id,
            String reference,
            String agency,
            String agency_reference,
            String service_code,
            String submitted_at,
            Applicant applicant) {
        Card {
            need(request_id, reference, agency, agency_reference, service_code, submitted_at, applicant);
            OffsetDateTime.parse(submitted_at);
        }
    }

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Timeline(String published, String received, String accepted, String assigned) {
        Timeline {
            for (String moment : Arrays.asList(published, received, accepted, assigned))
                if (moment != null) OffsetDateTime.parse(moment);
        }

        Timeline at(String moment) {
            return new Timeline(published, received, accepted, moment);
        }
    }

    @JsonIgnoreProperties(ignoreUnknown = true)
    record AcceptedData(
            Card request, String description, Place place, Map<String, JsonNode> attributes, Timeline timeline) {
        AcceptedData {
            need(request, timeline);
        }
    }

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Accepted(String specversion, String id, String source, String type, String subject, String time,
            AcceptedData data) {
        Accepted {
            need(id, source, subject, time, data);
            if (!"1.0".equals(specversion)) throw new IllegalArgumentException("specversion");
            if (!"guichet.request.accepted.v1".equals(type)) throw new IllegalArgumentException("type");
            OffsetDateTime.parse(time);
        }
    }

    record Office(String id, String name) {}

    record AssignedData(
            Card request, Office office, String due, String rule, String rules_version, Timeline timeline) {}

    record Assigned(String specversion, String id, String source, String type, String subject, String time,
            String datacontenttype, String causationid, AssignedData data) {}

    record Rule(
            String id,
            Set<String> zones,
            Set<String> agencies,
            Set<String> languages,
            Map<String, List<JsonNode>> attributes,
            Office office,
            @JsonProperty("promise_days") int promiseDays) {
        boolean holds(AcceptedData data) {
            String zone = data.place() == null ? null : data.place().zone();
            if (agencies != null && !agencies.contains(data.request().agency())) return false;
            if (languages != null && !languages.contains(data.request().applicant().language())) return false;
            if (zones != null && (zone == null || !zones.contains(zone.strip().toLowerCase()))) return false;
            for (Map.Entry<String, List<JsonNode>> wanted : attributes.entrySet()) {
                JsonNode value = data.attributes() == null ? null : data.attributes().get(wanted.getKey());
                if (value == null || !wanted.getValue().contains(value)) return false;
            }
            return true;
        }
    }

    record Book(String version, String timezone, @JsonProperty("working_days") List<String> workingDays,
            Map<String, Rule> rules, Map<String, List<String>> services) {}

    static void need(Object... fields) {
        for (Object field : fields) if (field == null) throw new IllegalArgumentException("a field is missing");
    }

    final ObjectMapper json = new ObjectMapper()
            .setSerializationInclusion(JsonInclude.Include.NON_NULL)
            .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES);
    final String version;
    final ZoneId timezone;
    final long[] workingDays;
    final Map<String, List<Rule>> rules = new HashMap<>();

    Assign(File file) throws Exception {
        Book book = json.readValue(file, Book.class);
        version = book.version();
        timezone = ZoneId.of(book.timezone());
        workingDays = book.workingDays().stream().mapToLong(day -> LocalDate.parse(day).toEpochDay()).toArray();
        book.services().forEach(
                (service, candidates) -> rules.put(service, candidates.stream().map(book.rules()::get).toList()));
    }

    byte[] answer(byte[] value) {
        try {
            Accepted event = json.readValue(value, Accepted.class);
            AcceptedData data = event.data();
            Rule rule = rules.getOrDefault(data.request().service_code(), List.of()).stream()
                    .filter(one -> one.holds(data))
                    .findFirst()
                    .orElseThrow();
            String now = Instant.now().toString();
            return json.writeValueAsBytes(new Assigned(
                    "1.0",
                    UUID.nameUUIDFromBytes(event.id().getBytes(StandardCharsets.UTF_8)).toString(),
                    "/peer",
                    "guichet.request.assigned.v1",
                    event.subject(),
                    now,
                    "application/json",
                    event.id(),
                    new AssignedData(
                            data.request(),
                            rule.office(),
                            due(data.request().submitted_at(), rule.promiseDays()),
                            rule.id(),
                            version,
                            data.timeline().at(now))));
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    String due(String submittedAt, int days) {
        long day = OffsetDateTime.parse(submittedAt).atZoneSameInstant(timezone).toLocalDate().toEpochDay();
        int place = Arrays.binarySearch(workingDays, day);
        return LocalDate.ofEpochDay(workingDays[(place < 0 ? -place - 1 : place) + days]).toString();
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> task = new HashMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) task.put(arguments[i], arguments[i + 1]);
        Assign job = new Assign(new File(task.get("--book")));
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, task.get("--group"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, task.get("--bootstrap"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, task.get("--state"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.ACKS_CONFIG), "all");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG), true);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 * 1024);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(task.get("--source"), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .mapValues(value -> job.answer(value))
                .to(task.get("--target"), Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
